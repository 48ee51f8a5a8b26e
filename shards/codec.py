"""One part of a sample <-> the bytes of one tar member.

    .npy    raw NumPy format 1.0, C order, little endian     images, classes, coordinates, tokens
    .b2     header below + one blosc2 chunk                   images, classes
    .txt    UTF-8                                             text, date
    .json   canonical JSON                                    meta: one per sample, always

A `.b2` member decodes from its bytes alone, whatever the registry says today:

    magic "EOB2" | version u8 | flags u8 | ndim u8 | dtype length u8 | dtype ASCII | ndim x u32 | chunk

Flag 1: each row holds differences to the left neighbour (wrapping integers), undone by a running
sum. Blosc2 runs on one thread, so the bytes depend on the array and the library version only.
"""

import dataclasses
import functools
import io
import json
import math
import struct
from typing import Any

import numpy as np

from configs.schema.modality import Codec, Modality
from shards.errors import DamagedError, SampleError
from shards.files import to_json
from shards.sample import Part, SampleMeta

META_PART = "meta.json"

_MAGIC = b"EOB2"
_VERSION = 1
_DELTA = 1
_FIXED = struct.Struct("<4sBBBB")
# A blosc2 chunk counts its bytes in an int32 and keeps 32 of them for its header.
_MAX_CHUNK_BYTES = 2**31 - 33


def part_name(row: Modality) -> str:
    """The member of a modality, `NAME.EXT`; the member's full name is `KEY.NAME.EXT`."""
    if row.kind in ("text", "date"):
        return f"{row.name}.txt"
    if row.kind == "coordinates" or row.codec.name == "npy":
        return f"{row.name}.npy"
    return f"{row.name}.b2"


def encode_part(part: Part, row: Modality) -> bytes:
    """The bytes of one part, always the same for the same part. Raises SampleError if too large."""
    if isinstance(part, str):
        return part.encode()
    if row.codec.name == "blosc2" and row.is_map:
        return encode_blosc2(part, row.codec)
    return encode_npy(part)


def decode_part(extension: str, data: bytes | bytearray) -> Part:
    """Undo `encode_part`. Arrays are writable. Raises DamagedError for bytes it cannot be made of."""
    if extension == "txt":
        try:
            return bytes(data).decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"not UTF-8 text: {error}") from error
    if extension == "npy":
        return decode_npy(data)
    if extension == "b2":
        return decode_blosc2(data)
    raise DamagedError(f"no decoder for members that end in .{extension}")


def encode_meta(meta: SampleMeta) -> bytes:
    """The sample's meta data as canonical JSON."""
    return to_json(dataclasses.asdict(meta))


def decode_meta(data: bytes | bytearray) -> SampleMeta:
    """Undo `encode_meta`. Raises DamagedError."""
    try:
        values = json.loads(bytes(data))
        transform = values.pop("transform")
        return SampleMeta(**values, transform=tuple(transform) if transform else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"not a sample's meta data: {error}") from error


def encode_npy(array: np.ndarray) -> bytes:
    """NumPy format 1.0."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, _canonical(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def decode_npy(data: bytes | bytearray) -> np.ndarray:
    """Undo `encode_npy`; shares memory with a bytearray. Raises DamagedError."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not NumPy format 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran or dtype.hasobject:
            raise ValueError("not a plain array in C order")
        array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
    except (ValueError, TypeError, SyntaxError) as error:
        raise DamagedError(f"not an .npy member: {error}") from error
    return array if array.flags.writeable else array.copy()


def encode_blosc2(array: np.ndarray, codec: Codec) -> bytes:
    """One `.b2` member. Raises SampleError for an array that does not fit into one chunk."""
    array = _canonical(array)
    if array.nbytes > _MAX_CHUNK_BYTES or array.nbytes == 0:
        raise SampleError(f"{array.nbytes} bytes do not fit into one blosc2 chunk; use codec npy")
    delta = codec.delta and array.dtype.kind in "iu"
    flags = _DELTA if delta else 0
    name = array.dtype.str.encode("ascii")
    header = _FIXED.pack(_MAGIC, _VERSION, flags, array.ndim, len(name)) + name
    header += struct.pack(f"<{array.ndim}I", *array.shape)
    if delta:
        array = np.diff(array, axis=-1, prepend=array.dtype.type(0))
    blosc2 = _blosc2()
    filters = {"bitshuffle": "BITSHUFFLE", "shuffle": "SHUFFLE", "none": "NOFILTER"}
    chunk = blosc2.compress2(
        array.tobytes(),
        codec=blosc2.Codec.ZSTD,
        clevel=codec.level,
        typesize=array.dtype.itemsize,
        filters=[blosc2.Filter[filters[codec.filter]]],
        filters_meta=[0],
        nthreads=1,
    )
    return header + chunk


def decode_blosc2(data: bytes | bytearray) -> np.ndarray:
    """Undo `encode_blosc2`. Raises DamagedError."""
    blosc2 = _blosc2()
    try:
        magic, version, flags, ndim, length = _FIXED.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise ValueError(f"magic {magic!r}, version {version}")
        start = _FIXED.size + length
        dtype = np.dtype(bytes(data[_FIXED.size : start]).decode("ascii"))
        shape = struct.unpack_from(f"<{ndim}I", data, start)
        chunk = bytes(memoryview(data)[start + 4 * ndim :])
        num_bytes, chunk_bytes, _ = blosc2.get_cbuffer_sizes(chunk)
        # Checked before anything is allocated: damaged sizes must not ask for terabytes.
        if num_bytes != math.prod(shape) * dtype.itemsize or chunk_bytes != len(chunk):
            raise ValueError("the sizes in its header contradict each other")
        array = np.empty(shape, dtype)
        blosc2.decompress2(chunk, dst=array, nthreads=1)
    except (ValueError, TypeError, RuntimeError, struct.error) as error:
        raise DamagedError(f"not a .b2 member: {error}") from error
    if flags & _DELTA:
        np.cumsum(array, axis=-1, dtype=dtype, out=array)
    return array


def _canonical(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


@functools.cache
def _blosc2() -> Any:
    # Imported on first use: it takes longer to load than a command takes to print its help.
    import blosc2

    return blosc2
