"""The index beside each shard: where every part of every sample lies, and its digest.

    header | part names JSON, padded to 8 bytes | records | keys, one a line | xxh3_128 | "EOIX"

    header   magic "EOIX" u32 | version u16 | num_parts u16 | num_samples, tar_bytes, names_bytes,
             keys_bytes u64 each
    record   present u32 (bit p: part p is there) | 0 u32 | num_parts x {block u32, size u32, xxh3 u64}

Everything is little endian. A part's data starts at byte 512 * block of the tar. Parts are named
`NAME.EXT`, so a reader needs nothing but the index to find and decode them. `index.bin` of a whole
data set is the same format: all shards' records one after the other, and `tar_bytes` their sum.
"""

import functools
import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from shards.errors import ShardError
from shards.tar import BLOCK_BYTES

MAX_PARTS = 32
_MAGIC = b"EOIX"
_VERSION = 1
_HEADER = struct.Struct("<4sHHQQQQ")
_TRAILER_BYTES = 16 + len(_MAGIC)
_PART = np.dtype([("block", "<u4"), ("size", "<u4"), ("digest", "<u8")])


def record_dtype(num_parts: int) -> np.dtype:
    """The structured type of one sample's record."""
    return np.dtype([("present", "<u4"), ("zero", "<u4"), ("parts", _PART, (num_parts,))])


@dataclass(frozen=True)
class ShardIndex:
    """One shard's index, or that of a whole data set.

    `parts` are the P member names `NAME.EXT`, `records` is a structured array [N] of
    `record_dtype(P)`, `key_lines` the N keys, UTF-8, one a line.
    """

    parts: tuple[str, ...]
    records: np.ndarray
    key_lines: bytes
    tar_bytes: int

    @property
    def num_samples(self) -> int:
        return len(self.records)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.key_lines.decode().splitlines())

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of everything the index says, the parts' own digests included."""
        return xxhash.xxh3_128_hexdigest(self._body())

    def to_bytes(self) -> bytes:
        body = self._body()
        return body + xxhash.xxh3_128_digest(body) + _MAGIC

    def _body(self) -> bytes:
        names = json.dumps(self.parts, separators=(",", ":")).encode()
        # Records start on a multiple of 8, so that mapped 64-bit digests are aligned.
        names += b" " * (-len(names) % 8)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            len(self.parts),
            len(self.records),
            self.tar_bytes,
            len(names),
            len(self.key_lines),
        )
        return b"".join((header, names, self.records.tobytes(), self.key_lines))


def index_path(tar: Path) -> Path:
    """`shard-000000.tar` -> `shard-000000.idx`."""
    return tar.with_suffix(".idx")


def read_index(path: Path, *, verify: bool = True) -> ShardIndex:
    """Map an index file into memory and check it.

    Raises ShardError when there is none or it is damaged; `verify=False` skips the digest only.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such index; {_advice(path)}") from error
    except (OSError, ValueError) as error:
        # mmap refuses an empty file with ValueError.
        raise ShardError(f"{path}: not readable: {error}; {_advice(path)}") from error
    try:
        return _parse(data, verify)
    except (ValueError, struct.error) as error:
        raise ShardError(f"{path}: damaged index: {error}; {_advice(path)}") from error


def committed(tar: Path) -> ShardIndex | None:
    """The shard's index when the shard is there whole: an intact index and a tar of its size."""
    try:
        index = read_index(index_path(tar))
        return index if tar.stat().st_size == index.tar_bytes else None
    except (ShardError, FileNotFoundError):
        return None


def concatenate(indices: Sequence[ShardIndex]) -> ShardIndex:
    """One index over all shards, in the order given. Raises ShardError when their parts differ."""
    parts = indices[0].parts
    for index in indices:
        if index.parts != parts:
            raise ShardError(
                f"shards of one data set hold different parts: {', '.join(parts)} and "
                f"{', '.join(index.parts)}; build them again in an empty folder"
            )
    return ShardIndex(
        parts=parts,
        records=np.concatenate([i.records for i in indices]),
        key_lines=b"".join(i.key_lines for i in indices),
        tar_bytes=sum(i.tar_bytes for i in indices),
    )


def member_layout(index: ShardIndex) -> list[tuple[str, int, int]]:
    """(name, data offset in bytes, size in bytes) of every member, in the order of the tar."""
    layout = []
    for key, record in zip(index.keys, index.records, strict=True):
        for p, part in enumerate(index.parts):
            if int(record["present"]) >> p & 1:
                entry = record["parts"][p]
                layout.append(
                    (f"{key}.{part}", int(entry["block"]) * BLOCK_BYTES, int(entry["size"]))
                )
    return layout


def _parse(data: mmap.mmap, verify: bool) -> ShardIndex:
    magic, version, num_parts, num, tar_bytes, names_bytes, keys_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not start with EOIX")
    if version != _VERSION:
        raise ValueError(f"version {version}, this software reads {_VERSION}")
    dtype = record_dtype(num_parts)
    records_at = _HEADER.size + names_bytes
    keys_at = records_at + num * dtype.itemsize
    end = keys_at + keys_bytes
    if len(data) != end + _TRAILER_BYTES or data[-len(_MAGIC) :] != _MAGIC:
        raise ValueError(f"{len(data)} bytes, {end + _TRAILER_BYTES} expected")
    if verify and xxhash.xxh3_128_digest(memoryview(data)[:end]) != data[end : end + 16]:
        raise ValueError("its digest does not fit its content")
    index = ShardIndex(
        parts=tuple(json.loads(data[_HEADER.size : records_at])),
        records=np.frombuffer(data, dtype, count=num, offset=records_at),
        key_lines=data[keys_at:end],
        tar_bytes=tar_bytes,
    )
    if index.key_lines.count(b"\n") != num or len(index.parts) != num_parts:
        raise ValueError("its keys and records differ in number")
    return index


def _advice(path: Path) -> str:
    if path.suffix == ".idx":
        return f"remove {path.name} and its .tar and run the same build again: it makes them anew"
    return "run the same build again: it makes the missing files anew"
