"""Zarr format 2, consolidated and zipped, read straight from the zip: no file system, no store.

    .zmetadata            shape, chunks, type, compressor and attributes of every array
    NAME/0.0.1  ...       one member per chunk of array NAME; a missing one holds the fill value

Collections of small samples spend most of their reading time in the layers between a zip and an
array. What is left here is the zip's directory, one JSON document, and one decompression a chunk.
Not supported, and told so: groups inside groups, structured types, filters other than `vlen-utf8`.
"""

import bz2
import gzip
import io
import itertools
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shards import blosc
from shards.errors import SampleError

_METADATA = ".zmetadata"
_TEXT_FILTER = "vlen-utf8"
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, TypeError),
    *(AttributeError, IndexError, NotImplementedError, RuntimeError),
)


class _Array(NamedTuple):
    """One array's entry in the metadata. Text of any length has dtype object."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    fill: Any
    order: str
    separator: str
    compressor: dict[str, Any] | None


class ZarrZip:
    """The arrays of one zipped zarr store, from its bytes or its file.

    `where` names the store in messages. Raises SampleError for anything that is not such a store,
    here and when an array is read; OSError where the file cannot be read.
    """

    def __init__(self, data: bytes | Path, where: str) -> None:
        self.where = where
        self._arrays: dict[str, _Array] = {}
        self._chunks: dict[str, tuple[tuple[int, ...], np.ndarray]] = {}
        with self._telling("not a zip file"):
            self._zip = zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        with self._telling(f"no readable {_METADATA}: not a consolidated zarr store, format 2"):
            self._metadata: dict[str, Any] = json.loads(self._zip.read(_METADATA))["metadata"]

    def close(self) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}/.zarray" in self._metadata

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of an array, such as the `units` of times."""
        return self._metadata.get(f"{name}/.zattrs", {})

    def shape(self, name: str) -> tuple[int, ...]:
        return self._array(name).shape

    def read(self, name: str, *at: int) -> np.ndarray:
        """An array, or the part of it at the leading indices `at`; only its chunks are decoded.

        The last chunk is kept where it holds more than the part, as the next call often wants its
        neighbour. What is returned may share memory with it: do not write to it.
        Raises SampleError where the array or the part is missing, damaged, or stored in a way that
        is not supported.
        """
        array = self._array(name)
        if len(at) > len(array.shape) or any(
            not 0 <= i < n for i, n in zip(at, array.shape, strict=False)
        ):
            raise SampleError(f"{self.where}: {name} has shape {array.shape}, and no part {at}")
        shape, size = array.shape[len(at) :], array.chunks[len(at) :]
        fixed = [divmod(i, c) for i, c in zip(at, array.chunks, strict=False)]
        out = np.empty(shape, array.dtype) if math.prod(shape) else np.zeros(shape, array.dtype)
        for cell in itertools.product(
            *(range(-(-n // c)) for n, c in zip(shape, size, strict=True))
        ):
            chunk = self._chunk(array, (*(k for k, _ in fixed), *cell), len(at))
            part = None if chunk is None else chunk[(*(i for _, i in fixed), ...)]
            if part is not None and part.shape == shape:
                out = part
                break
            to = tuple(
                slice(k * c, min((k + 1) * c, n)) for k, c, n in zip(cell, size, shape, strict=True)
            )
            # Chunks at the far edge are stored whole.
            out[to] = (
                array.fill if part is None else part[tuple(slice(s.stop - s.start) for s in to)]
            )
        return out.astype(str) if array.dtype.hasobject else out

    def _array(self, name: str) -> _Array:
        if name not in self._arrays:
            if name not in self:
                raise SampleError(f"{self.where}: no array {name!r}")
            with self._telling(f"the metadata of {name}"):
                self._arrays[name] = _parse(name, self._metadata[f"{name}/.zarray"])
        return self._arrays[name]

    def _chunk(self, array: _Array, cell: tuple[int, ...], num_fixed: int) -> np.ndarray | None:
        """One decoded chunk, None where it is not stored."""
        kept = self._chunks.get(array.name)
        if kept and kept[0] == cell:
            return kept[1]
        member = f"{array.name}/{array.separator.join(map(str, cell)) or '0'}"
        with self._telling(member):
            if member not in self._zip.NameToInfo:
                return None
            chunk = _decode(self._zip.read(member), array)
        if math.prod(array.chunks[:num_fixed]) > 1:
            self._chunks[array.name] = (cell, chunk)
        return chunk

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except SampleError:
            raise
        except _DAMAGE as error:
            raise SampleError(f"{self.where}: {what}: {error}") from error


def _parse(name: str, entry: dict[str, Any]) -> _Array:
    if entry["zarr_format"] != 2:
        raise ValueError(f"zarr format {entry['zarr_format']}, not 2")
    filters = [f["id"] for f in entry.get("filters") or []]
    text = filters == [_TEXT_FILTER] and entry["dtype"] == "|O"
    if not isinstance(entry["dtype"], str) or (filters and not text):
        raise ValueError(f"type {entry['dtype']} with filters {filters} is not supported")
    dtype = np.dtype(entry["dtype"])
    if dtype.hasobject and not text:
        raise ValueError("Python objects are not supported")
    return _Array(
        name=name,
        shape=tuple(entry["shape"]),
        chunks=tuple(entry["chunks"]),
        dtype=dtype,
        fill=_fill_value(entry["fill_value"], dtype),
        order=entry["order"],
        separator=entry.get("dimension_separator", "."),
        compressor=entry["compressor"],
    )


def _fill_value(value: Any, dtype: np.dtype) -> Any:
    if dtype.hasobject:
        return value if isinstance(value, str) else ""
    # JSON has no NaN: floats come as the words NaN and Infinity, which NumPy reads.
    return np.zeros((), dtype) if value is None else np.array(value).astype(dtype)


def _decode(packed: bytes, array: _Array) -> np.ndarray:
    num = math.prod(array.chunks)
    text = array.dtype.hasobject
    data = _decompress(packed, array.compressor, None if text else num * array.dtype.itemsize)
    flat = _texts(data) if text else np.frombuffer(data, array.dtype)
    if flat.size != num:
        raise ValueError(f"{flat.size} values in a chunk of {num}")
    return flat.reshape(array.chunks, order="F" if array.order == "F" else "C")


def _texts(data: bytes | memoryview) -> np.ndarray:
    """u32 count, then for each text u32 length and UTF-8."""
    (count,) = struct.unpack_from("<I", data)
    texts, at = np.empty(count, object), 4
    for i in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        texts[i] = str(bytes(data[at + 4 : at + 4 + length]), "utf-8")
        at += 4 + length
    return texts


def _decompress(
    packed: bytes, compressor: dict[str, Any] | None, num_bytes: int | None
) -> bytes | memoryview:
    """The bytes of a chunk; `num_bytes` of them where that is known before."""
    if compressor is None:
        return packed
    unpack = _COMPRESSORS.get(compressor["id"])
    if unpack is None:
        raise ValueError(
            f"compressed by {compressor['id']!r}, which is not supported; "
            f"{', '.join(_COMPRESSORS)} and none are"
        )
    try:
        return unpack(packed, num_bytes)
    except OSError as error:
        # Some libraries' word for bytes they did not make; no disk has failed.
        raise ValueError(error) from error


def _unpack_blosc(packed: bytes, num_bytes: int | None) -> memoryview:
    # The library reads the first version's chunks as well; both say their size in the same place.
    (told,) = struct.unpack_from("<4xi", packed)
    if told < 0 or told != (told if num_bytes is None else num_bytes):
        raise ValueError(f"a chunk of {told} bytes where {num_bytes} belong")
    out = np.empty(told, np.uint8)
    blosc.decompress(memoryview(packed), out)
    return out.data


def _unpack_zstd(packed: bytes, num_bytes: int | None) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        return stream.read()


def _unpack_lz4(packed: bytes, num_bytes: int | None) -> bytes:
    import pyarrow as pa

    (told,) = struct.unpack_from("<I", packed)
    return pa.Codec("lz4_raw").decompress(packed[4:], told, asbytes=True)


_COMPRESSORS: dict[str, Callable[[bytes, int | None], bytes | memoryview]] = {
    "blosc": _unpack_blosc,
    "zstd": _unpack_zstd,
    "lz4": _unpack_lz4,
    "zlib": lambda packed, _: zlib.decompress(packed),
    "gzip": lambda packed, _: gzip.decompress(packed),
    "bz2": lambda packed, _: bz2.decompress(packed),
}
