"""The index beside each shard: where every part of every sample lies, and its digest.

    header | part names JSON, padded to 8 bytes | digest of both | present | entries | ends | keys

    header    magic "EOIX" u32 | version u16 | num_parts P u16 | num_samples N, tar_bytes, names_bytes,
              keys_bytes u64 | xxh3_64 of present, entries, ends + keys: 3 x u64
    present   N x u32, padded to 8 bytes: bit p says that part p is there
    entries   N x P x {block u32, size u32, xxh3 u64}
    ends      N x u64: where each key ends in `keys`
    keys      UTF-8, one after the other

Everything is little endian. A part's data starts at byte 512 * block of the tar. Parts are named
`NAME.EXT`, so a reader needs nothing but the index to find and decode them. `index.bin` of a whole
data set is the same format: all shards' columns one after the other, and `tar_bytes` their sum.

The columns of an `index.bin` are mapped, not read, and checked against their digests when they are
first used: opening costs the same for a thousand samples and for nine million. A damaged entry needs
no digest of its own: what it points to does not have the digest it says.
"""

import functools
import json
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from shards.errors import ShardError
from shards.files import Pieces, raw, write_atomic
from shards.keys import Keys
from shards.tar import BLOCK_BYTES

SUFFIX = ".idx"
MAX_PARTS = 32
ENTRY = np.dtype([("block", "<u4"), ("size", "<u4"), ("digest", "<u8")])
_MAGIC = b"EOIX"
_VERSION = 2
_HEADER = struct.Struct("<4sHHQQQQQQQ")
_DIGEST = struct.Struct("<Q")


@dataclass(frozen=True)
class ShardIndex:
    """One shard's index, or that of a whole data set: N samples of P parts `NAME.EXT`.

    Raises ShardError on the first use of a column that differs from its digest.
    """

    parts: tuple[str, ...]
    tar_bytes: int
    _present: np.ndarray
    _entries: np.ndarray
    _keys: Keys
    _digests: tuple[int, int, int] | None = None
    _path: Path = field(default=Path("index"), compare=False)

    @property
    def num_samples(self) -> int:
        return len(self._present)

    @functools.cached_property
    def present(self) -> np.ndarray:
        """uint32 [N]: bit p says that part p is there."""
        self._check(0, "presence", raw(self._present))
        return self._present

    @property
    def entries(self) -> np.ndarray:
        """`ENTRY` [N, P]: where each part lies. Not checked as a whole: see above."""
        return self._entries

    @functools.cached_property
    def keys(self) -> Keys:
        """The N keys."""
        self._check(2, "keys", raw(self._keys.ends), self._keys.text)
        return self._keys

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of everything the index says, the parts' own digests included."""
        return xxhash.xxh3_128_hexdigest(self._head())

    def verify(self) -> None:
        """Check all columns. Raises ShardError."""
        self._check(1, "entries", raw(self._entries))
        _ = self.present, self.keys

    def pieces(self) -> Pieces:
        """The file's bytes, piece by piece."""
        head = self._head()
        yield head
        yield _DIGEST.pack(xxhash.xxh3_64_intdigest(head))
        yield raw(self._present)
        yield bytes(-self._present.nbytes % 8)
        yield raw(self._entries)
        yield raw(self._keys.ends)
        yield self._keys.text

    def to_bytes(self) -> bytes:
        return b"".join(self.pieces())

    def _head(self) -> bytes:
        digests = self._digests or (
            _digest(raw(self._present)),
            _digest(raw(self._entries)),
            _digest(raw(self._keys.ends), self._keys.text),
        )
        return _head(self.parts, self.num_samples, self.tar_bytes, len(self._keys.text), digests)

    def _check(self, column: int, name: str, *pieces: bytes | memoryview) -> None:
        if self._digests and _digest(*pieces) != self._digests[column]:
            raise ShardError(
                f"{self._path}: damaged index: its {name} differ from their digest; "
                f"{_advice(self._path)}"
            )


def make_index(
    parts: Sequence[str], tar_bytes: int, present: np.ndarray, entries: np.ndarray, keys: Keys
) -> ShardIndex:
    """An index from its columns."""
    return ShardIndex(
        tuple(parts),
        tar_bytes,
        np.ascontiguousarray(present, "<u4"),
        np.ascontiguousarray(entries, ENTRY),
        keys,
    )


def index_path(tar: Path) -> Path:
    """`shard-000000.tar` -> `shard-000000.idx`."""
    return tar.with_suffix(SUFFIX)


def read_index(path: Path, *, verify: bool = True) -> ShardIndex:
    """Read a shard's index, or map that of a whole data set into memory, and check it.

    Raises ShardError when there is none or it is damaged; `verify=False` leaves the columns' digests
    for their first use.
    """
    try:
        # A mapping keeps a descriptor, and there are more shards than a process may have of those.
        data = path.read_bytes() if path.suffix == SUFFIX else _mapped(path)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such index; {_advice(path)}") from error
    except (OSError, ValueError) as error:
        # mmap refuses an empty file with ValueError.
        raise ShardError(f"{path}: not readable: {error}; {_advice(path)}") from error
    try:
        index = _parse(path, data)
    except (ValueError, struct.error) as error:
        raise ShardError(f"{path}: damaged index: {error}; {_advice(path)}") from error
    if verify:
        index.verify()
    return index


def committed(tar: Path) -> ShardIndex | None:
    """The shard's index when the shard is there whole: an intact index and a tar of its size."""
    try:
        index = read_index(index_path(tar))
        return index if tar.stat().st_size == index.tar_bytes else None
    except (ShardError, FileNotFoundError):
        return None


def write_joined(path: Path, indices: Sequence[ShardIndex]) -> str:
    """Write one index over all shards, in the order given; returns its digest.

    Column by column and shard by shard, so memory holds one shard's at a time.
    Raises ShardError when their parts differ.
    """
    parts = indices[0].parts
    for index in indices:
        if index.parts != parts:
            raise ShardError(
                f"shards of one data set hold different parts: {', '.join(parts)} and "
                f"{', '.join(index.parts)}; build them again in an empty folder"
            )
    num = sum(i.num_samples for i in indices)
    columns = (
        lambda: (raw(i.present) for i in indices),
        lambda: (raw(i.entries) for i in indices),
        lambda: (*_joined_ends(indices), *(i.keys.text for i in indices)),
    )
    digests = (_digest(*columns[0]()), _digest(*columns[1]()), _digest(*columns[2]()))
    keys_bytes = sum(len(i.keys.text) for i in indices)
    head = _head(parts, num, sum(i.tar_bytes for i in indices), keys_bytes, digests)

    def pieces() -> Pieces:
        yield head
        yield _DIGEST.pack(xxhash.xxh3_64_intdigest(head))
        yield from columns[0]()
        yield bytes(-4 * num % 8)
        yield from columns[1]()
        yield from columns[2]()

    write_atomic(path, pieces())
    return xxhash.xxh3_128_hexdigest(head)


def member_layout(index: ShardIndex) -> list[tuple[str, int, int]]:
    """(name, data offset in bytes, size in bytes) of every member, in the order of the tar."""
    names = [f".{part}" for part in index.parts]
    return [
        (key + names[p], int(entries[p]["block"]) * BLOCK_BYTES, int(entries[p]["size"]))
        for key, bits, entries in zip(
            index.keys, index.present.tolist(), index.entries, strict=True
        )
        for p in range(len(names))
        if bits >> p & 1
    ]


def _joined_ends(indices: Sequence[ShardIndex]) -> Iterator[memoryview]:
    start = 0
    for index in indices:
        yield raw(index.keys.ends + np.uint64(start))
        start += len(index.keys.text)


def _head(
    parts: Sequence[str],
    num: int,
    tar_bytes: int,
    keys_bytes: int,
    digests: tuple[int, int, int],
) -> bytes:
    names = json.dumps(parts, separators=(",", ":")).encode()
    # Columns start on a multiple of 8, so that mapped 64-bit values are aligned.
    names += b" " * (-len(names) % 8)
    fields = (_VERSION, len(parts), num, tar_bytes, len(names), keys_bytes, *digests)
    return _HEADER.pack(_MAGIC, *fields) + names


def _digest(*pieces: bytes | memoryview) -> int:
    state = xxhash.xxh3_64()
    for piece in pieces:
        state.update(piece)
    return state.intdigest()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _parse(path: Path, data: bytes | mmap.mmap) -> ShardIndex:
    magic, version, num_parts, num, tar_bytes, names_bytes, keys_bytes, *digests = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC:
        raise ValueError("it does not start with EOIX")
    if version != _VERSION:
        raise ShardError(
            f"{path}: index format {version}, this software reads {_VERSION}; build the data set anew"
        )
    head_end = _HEADER.size + names_bytes
    if head_end + _DIGEST.size > len(data):
        raise ValueError(f"{len(data)} bytes, more expected")
    (expected,) = _DIGEST.unpack_from(data, head_end)
    if xxhash.xxh3_64_intdigest(memoryview(data)[:head_end]) != expected:
        raise ValueError("its header differs from its digest")
    present_at = head_end + _DIGEST.size
    entries_at = present_at + 4 * num + -4 * num % 8
    ends_at = entries_at + num * num_parts * ENTRY.itemsize
    keys_at = ends_at + 8 * num
    if len(data) != keys_at + keys_bytes:
        raise ValueError(f"{len(data)} bytes, {keys_at + keys_bytes} expected")
    if any(data[present_at + 4 * num : entries_at]):
        raise ValueError("its padding is not zero")
    entries = np.frombuffer(data, ENTRY, count=num * num_parts, offset=entries_at)
    return ShardIndex(
        parts=tuple(json.loads(data[_HEADER.size : head_end])),
        tar_bytes=tar_bytes,
        _present=np.frombuffer(data, "<u4", count=num, offset=present_at),
        _entries=entries.reshape(num, num_parts),
        _keys=Keys(
            np.frombuffer(data, "<u8", count=num, offset=ends_at), memoryview(data)[keys_at:]
        ),
        _digests=(digests[0], digests[1], digests[2]),
        _path=path,
    )


def _advice(path: Path) -> str:
    if path.suffix == SUFFIX:
        return f"remove {path.name} and its .tar and run the same build again: it makes them anew"
    return "run the same build again: it makes the missing files anew"
