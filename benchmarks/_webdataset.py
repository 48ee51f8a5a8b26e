"""webdataset as a contender: https://github.com/webdataset/webdataset.

It calls no fsync, so every file gets one here before a writer's time ends.
"""

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

from benchmarks import _ours
from benchmarks._workload import (
    SAMPLES_PER_SHARD,
    Batch,
    Numbered,
    Workload,
    fill,
    key_of,
    make_durable,
    number_of,
)


def write_own_encoder(workload: Workload, out: Path) -> None:
    """Arrays are given; webdataset makes `.npy` and `.json` of them."""
    with _shards(out) as sink:
        for i in range(workload.num_samples):
            arrays = {f"{name}.npy": array for name, array in workload.arrays(i).items()}
            sink.write({"__key__": key_of(i), "meta.json": workload.meta_json(i), **arrays})
    make_durable(out)


def write_npy_bytes(workload: Workload, out: Path) -> None:
    """The same members; the bytes of `.npy` are made with one copy, faster than its encoder."""
    with _shards(out) as sink:
        for i in range(workload.num_samples):
            arrays = {f"{name}.npy": _npy(array) for name, array in workload.arrays(i).items()}
            sink.write({"__key__": key_of(i), "meta.json": workload.meta_json(i), **arrays})
    make_durable(out)


def write_same_codec(workload: Workload, out: Path) -> None:
    """The members that our own writer makes under the registry's codecs."""
    with _shards(out) as sink:
        for i in range(workload.num_samples):
            members = {
                _ours.member_name(name): _ours.encode(name, array)
                for name, array in workload.arrays(i).items()
            }
            sink.write({"__key__": key_of(i), "meta.json": workload.meta_json(i), **members})
    make_durable(out)


def write_by_modality(names: tuple[str, ...], workload: Workload, out: Path) -> None:
    """A folder of tars for each of the named modalities, as TerraMesh and 4M have them."""
    for name in names:
        (out / name).mkdir(parents=True)
        with _shards(out / name) as sink:
            for i in range(workload.num_samples):
                sink.write({"__key__": key_of(i), f"{name}.npy": _npy(workload.arrays(i)[name])})
    make_durable(out)


def read_frombuffer(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Types and shapes are known beforehand, so that arrays are made of the bytes without a copy."""
    return fill(batch, _open(folder).map(npy_decoder(workload, batch.names)))


def read_decode(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """`.decode()`, as most of its users write it."""
    fields = {name: f"{name.lower()}.npy" for name in batch.names}
    samples = (
        (number_of(sample["__key__"]), {name: sample[f] for name, f in fields.items()})
        for sample in _open(folder).decode()
    )
    return fill(batch, samples)


def read_selected(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """`select_files`: members of other modalities are skipped, not read."""
    ends = tuple(f".{name}.npy" for name in batch.names)
    samples = _open(folder, select_files=lambda name: name.endswith(ends))
    return fill(batch, samples.map(npy_decoder(workload, batch.names)))


def read_by_modality(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Tars of single modalities, side by side."""
    streams = [
        iter(_open(folder / name).map(npy_decoder(workload, (name,)))) for name in batch.names
    ]

    def joined() -> Iterator[Numbered]:
        for found in zip(*streams, strict=True):
            assert len({number for number, _ in found}) == 1
            yield found[0][0], {n: array for _, part in found for n, array in part.items()}

    return fill(batch, joined())


def read_same_codec(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Members under our registry's codecs, decoded by our own decoder."""
    fields = {name: _ours.member_name(name).lower() for name in batch.names}

    def decode(sample: dict[str, Any]) -> Numbered:
        parts = {name: _ours.decode(name, sample[field]) for name, field in fields.items()}
        return number_of(sample["__key__"]), parts

    return fill(batch, _open(folder).map(decode))


def npy_decoder(
    workload: Workload, names: Iterable[str], *, lower: bool = True
) -> Callable[[dict[str, Any]], Numbered]:
    """Makes arrays of a sample's `.npy` bytes, by known types and shapes; no copy, no header parsed.

    webdataset makes the names of members lower case, energon does not.
    """
    known = []
    for name in names:
        dtype, shape = workload.layout[name]
        field = f"{name.lower() if lower else name}.npy"
        known.append((name, field, dtype, shape, int(np.prod(shape)) * dtype.itemsize))

    def decode(sample: dict[str, Any]) -> Numbered:
        parts = {}
        for name, field, dtype, shape, num_bytes in known:
            data = sample[field]
            parts[name] = np.frombuffer(data, dtype, offset=len(data) - num_bytes).reshape(shape)
        return number_of(sample["__key__"]), parts

    return decode


def tars_in(folder: Path) -> list[str]:
    """The tars below a folder, in order."""
    return [str(path) for path in sorted(folder.rglob("*.tar"))]


def _shards(out: Path, **options: Any) -> ShardWriter:
    return ShardWriter(
        str(out / "shard-%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0, **options
    )


def _open(folder: Path, **options: Any) -> Any:
    return WebDataset(tars_in(folder), shardshuffle=False, **options)


def _npy(array: np.ndarray) -> bytes:
    return b"".join(
        (_npy_header(array.dtype.str, array.shape), array.reshape(-1).view(np.uint8).data)
    )


@functools.cache
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    values = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, values)
    return stream.getvalue()
