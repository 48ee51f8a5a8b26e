"""TerraMesh's layout as a contender: one tar a modality, in it one zipped zarr store a sample.

As in the released data set (zarr format 2, consolidated, the image in one chunk beside a dozen small
arrays that say where and when), but with the compressor of our own registry, Blosc zstd-1 with
bitshuffle, so that the layouts are compared and not the compressors. TerraMesh's cloud masks are
left out. The tars are written and read by webdataset, which calls no fsync; that is added here.

It runs with zarr 2.18, which TerraMesh asks for, and with zarr 3, which can do format 2 as well but
takes two to five times as long for it. Compare with 2.18 where you can.
"""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

from benchmarks._webdataset import tars_in
from benchmarks._workload import (
    NAMES,
    SAMPLES_PER_SHARD,
    TILE_PX,
    Batch,
    Numbered,
    Workload,
    fill,
    key_of,
    make_durable,
    number_of,
)

_MEMBER = "zarr.zip"
_ZARR_3 = not zarr.__version__.startswith("2.")
_FORMAT: dict[str, Any] = {"zarr_format": 2} if _ZARR_3 else {}


def write_anew(workload: Workload, out: Path) -> None:
    """A new store for every array, the way `to_zarr` makes them."""
    _write(workload, out, lambda _: _zipped_anew)


def write_from_template(workload: Workload, out: Path) -> None:
    """One open store a modality whose values change: zarr's metadata are made once. The faster."""
    _write(workload, out, lambda _: _Template())


def read_group(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Through the consolidated group, as TerraMesh's own `terramesh.py` does."""
    return fill(batch, _joined(folder, batch, _bands_of_group))


def read_array(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """The array alone, without its group. The faster."""
    return fill(batch, _joined(folder, batch, _bands_alone))


def _write(workload: Workload, out: Path, start: Callable[[str], Callable[..., bytes]]) -> None:
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        # zarr 3 warns of fixed-width text, which format 2 has always had.
        warnings.simplefilter("ignore")
        sinks = {}
        for name in NAMES:
            (out / name).mkdir(parents=True)
            sink = ShardWriter(
                str(out / name / "shard-%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0
            )
            sinks[name] = (stack.enter_context(sink), start(name))
        for i in range(workload.num_samples):
            for name, array in workload.arrays(i).items():
                sink, zipped = sinks[name]
                data = zipped(array, _small_arrays(workload, i, name))
                sink.write({"__key__": key_of(i), _MEMBER: data})
    make_durable(out)


def _small_arrays(workload: Workload, i: int, name: str) -> dict[str, np.ndarray]:
    meta = workload.meta(i)
    assert meta.transform
    assert meta.crs
    axis = np.arange(TILE_PX) * 10.0
    day = np.datetime64(meta.times.get(name, "1970-01-01"), "ns")
    values: dict[str, Any] = {
        "center_lat": meta.lat,
        "center_lon": meta.lon,
        "crs": int(meta.crs.removeprefix("EPSG:")),
        "time": [day.astype(np.int64)],
        "x": meta.transform[2] + axis,
        "y": meta.transform[5] - axis,
        "spatial_ref": 0,
        "sample": [key_of(i)],
        "file_id": [f"{meta.source}_{key_of(i)}_{name}"],
        "band": [f"B{c:02d}" for c in range(len(workload.arrays(i)[name]))],
    }
    return {name: np.asarray(value) for name, value in values.items()}


def _zipped_anew(bands: np.ndarray, small: dict[str, np.ndarray]) -> bytes:
    entries: dict[str, Any] = {}
    _create(entries, bands, small)
    return _zip(entries)


class _Template:
    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}
        self._arrays: dict[str, Any] = {}

    def __call__(self, bands: np.ndarray, small: dict[str, np.ndarray]) -> bytes:
        if not self._arrays:
            self._arrays = _create(self._entries, bands, small)
        self._arrays["bands"][...] = bands[None]
        for name, value in small.items():
            self._arrays[name][...] = value
        return _zip(self._entries)


def _create(
    entries: dict[str, Any], bands: np.ndarray, small: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Write a store into `entries`; its arrays, open."""
    store = _store(entries)
    group: Any = zarr.open_group(store, mode="w", **_FORMAT)
    blosc = numcodecs.Blosc(cname="zstd", clevel=1, shuffle=numcodecs.Blosc.BITSHUFFLE)
    arrays = {}
    for name, value in {"bands": bands[None], **small}.items():
        options: dict[str, Any] = {"shape": value.shape, "dtype": value.dtype}
        codec = blosc if name == "bands" else None
        if _ZARR_3:
            options |= {"chunks": value.shape or "auto", "compressors": codec}
            arrays[name] = group.create_array(name, **options)
        else:
            options |= {"chunks": value.shape or True, "compressor": codec}
            arrays[name] = group.create_dataset(name, **options)
        arrays[name][...] = value
    zarr.consolidate_metadata(store)
    return arrays


def _zip(entries: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for name, value in entries.items():
            file.writestr(name, value.to_bytes() if _ZARR_3 else bytes(value))
    return stream.getvalue()


def _joined(folder: Path, batch: Batch, bands: Callable[[bytes], np.ndarray]) -> Iterator[Numbered]:
    streams = [WebDataset(tars_in(folder / name), shardshuffle=False) for name in batch.names]
    for found in zip(*streams, strict=True):
        assert len({sample["__key__"] for sample in found}) == 1
        arrays = {n: bands(s[_MEMBER]) for n, s in zip(batch.names, found, strict=True)}
        yield number_of(found[0]["__key__"]), arrays


def _bands_of_group(data: bytes) -> Any:
    store = _store(_unzip(data, ("bands/", ".zmetadata", ".zgroup")))
    group: Any = zarr.open_consolidated(store, mode="r", **_FORMAT)
    return group["bands"][0]


def _bands_alone(data: bytes) -> Any:
    store = _store(_unzip(data, ("bands/",)))
    return zarr.open_array(store, path="bands", mode="r", **_FORMAT)[0]


def _unzip(data: bytes, starts: tuple[str, ...]) -> dict[str, Any]:
    """The wanted entries in memory, which is faster than zarr's or fsspec's view of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = (name for name in file.namelist() if name.startswith(starts))
        return {name: _buffer(file.read(name)) for name in names}


def _store(entries: dict[str, Any]) -> Any:
    """What zarr takes for a store in memory: 2.18 the dictionary itself."""
    if not _ZARR_3:
        return entries
    from zarr.storage import MemoryStore

    return MemoryStore(entries)


def _buffer(data: bytes) -> Any:
    if not _ZARR_3:
        return data
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)
