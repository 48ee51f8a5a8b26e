"""One part of a sample <-> the bytes of one tar member.

    .npy    raw NumPy format 1.0, C order, little endian     arrays of any kind, tokens
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
from collections.abc import Mapping
from typing import TypeGuard

import numpy as np

from configs.schema.modality import Codec, Modality
from shards import blosc
from shards.errors import DamagedError, SampleError
from shards.files import raw, to_json
from shards.sample import Part, SampleMeta

META_PART = "meta.json"
Payload = tuple[bytes | memoryview, ...]
"""The bytes of a member, in pieces."""
Bytes = bytes | bytearray | memoryview

_MAGIC = b"EOB2"
_VERSION = 1
_DELTA = 1
_FIXED = struct.Struct("<4sBBBB")
# A header of format 1.0 says its own length in 16 bits.
_MAX_NPY_HEADER = 10 + 0xFFFF


def part_name(row: Modality) -> str:
    """The member of a modality, `NAME.EXT`; the member's full name is `KEY.NAME.EXT`."""
    if row.kind in ("text", "date"):
        return f"{row.name}.txt"
    if row.kind == "coordinates" or row.codec.name == "npy":
        return f"{row.name}.npy"
    return f"{row.name}.b2"


def stored_parts(rows: Mapping[str, Modality]) -> tuple[str, ...]:
    """All members a sample may have, in the order of the tar: those of the rows, its meta data last."""
    return (*(part_name(row) for row in rows.values()), META_PART)


def encode_part(part: Part, row: Modality) -> Payload:
    """The bytes of one part, always the same for the same part. Raises SampleError if too large.

    Raw arrays are not copied: the payload holds the array's own memory.
    """
    if isinstance(part, str):
        return (part.encode(),)
    if row.codec.name == "blosc2" and row.is_map:
        return (encode_blosc2(part, row.codec),)
    return npy_payload(part)


def decode_part(extension: str, data: Bytes, out: np.ndarray | None = None) -> Part:
    """Undo `encode_part`. Arrays are writable; `out` is used for a compressed one that fits it.

    Raises DamagedError for bytes it cannot be made of.
    """
    if extension in ("txt", "json"):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"not UTF-8 text: {error}") from error
    if extension == "npy":
        return decode_npy(data)
    if extension == "b2":
        return decode_blosc2(data, out)
    raise DamagedError(f"no decoder for members that end in .{extension}")


def encode_meta(meta: SampleMeta) -> bytes:
    """The sample's meta data as canonical JSON."""
    return to_json(dataclasses.asdict(meta))


def decode_meta(text: str) -> SampleMeta:
    """Undo `encode_meta`, of which `decode_part` made text. Raises DamagedError."""
    try:
        values = json.loads(text)
        transform = values.pop("transform")
        return SampleMeta(**values, transform=tuple(transform) if transform else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"not a sample's meta data: {error}") from error


def encode_npy(array: np.ndarray) -> bytes:
    """NumPy format 1.0."""
    return b"".join(npy_payload(array))


def npy_payload(array: np.ndarray) -> Payload:
    """NumPy format 1.0 as a header and the array's own memory."""
    array = _canonical(array)
    return (npy_header(array.dtype.str, array.shape), raw(array))


def decode_npy(data: Bytes) -> np.ndarray:
    """Undo `encode_npy`; shares memory with writable bytes. Raises DamagedError."""
    head = io.BytesIO(memoryview(data)[:_MAX_NPY_HEADER])
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("not NumPy format 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        if fortran or dtype.hasobject:
            raise ValueError("not a plain array in C order")
        array = np.frombuffer(data, dtype, offset=head.tell()).reshape(shape)
    except (ValueError, TypeError, SyntaxError) as error:
        raise DamagedError(f"not an .npy member: {error}") from error
    return array if array.flags.writeable else array.copy()


def encode_blosc2(array: np.ndarray, codec: Codec) -> bytes:
    """One `.b2` member. Raises SampleError for an array that does not fit into one chunk."""
    array = _canonical(array)
    if array.nbytes > blosc.MAX_CHUNK_BYTES or array.nbytes == 0:
        raise SampleError(f"{array.nbytes} bytes do not fit into one blosc2 chunk; use codec npy")
    delta = codec.delta and array.dtype.kind in "iu"
    flags = _DELTA if delta else 0
    name = array.dtype.str.encode("ascii")
    header = _FIXED.pack(_MAGIC, _VERSION, flags, array.ndim, len(name)) + name
    header += struct.pack(f"<{array.ndim}I", *array.shape)
    if delta:
        array = np.diff(array, axis=-1, prepend=array.dtype.type(0))
    return header + blosc.compress(array, codec)


def decode_blosc2(data: Bytes, out: np.ndarray | None = None) -> np.ndarray:
    """Undo `encode_blosc2`, into `out` when that is contiguous and of the right type and shape.

    Raises DamagedError.
    """
    try:
        magic, version, flags, ndim, length = _FIXED.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise ValueError(f"magic {magic!r}, version {version}")
        start = _FIXED.size + length
        dtype = _dtype(bytes(data[_FIXED.size : start]))
        shape = struct.unpack_from(f"<{ndim}I", data, start)
        chunk = memoryview(data)[start + 4 * ndim :]
        if math.prod(shape) * dtype.itemsize > blosc.MAX_CHUNK_BYTES:
            raise ValueError(f"an array of {shape} in one chunk")
        array = out if fits(out, dtype, shape) else np.empty(shape, dtype)
        blosc.decompress(chunk, array)
    except (ValueError, TypeError, RuntimeError, struct.error) as error:
        raise DamagedError(f"not a .b2 member: {error}") from error
    if flags & _DELTA:
        np.cumsum(array, axis=-1, dtype=dtype, out=array)
    return array


def fits(out: np.ndarray | None, dtype: np.dtype, shape: tuple[int, ...]) -> TypeGuard[np.ndarray]:
    """Whether an array of this type and shape can be decoded in place."""
    return out is not None and out.dtype == dtype and out.shape == shape and out.flags.c_contiguous


@functools.lru_cache(maxsize=64)
def _dtype(name: bytes) -> np.dtype:
    return np.dtype(name.decode("ascii"))


@functools.lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the data of every array of this type and shape."""
    stream = io.BytesIO()
    values = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, values)
    return stream.getvalue()


def _canonical(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
