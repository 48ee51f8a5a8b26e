"""One shard from its first sample to its commit.

    .shard-000000.tar.tmp-*   written member by member, fsync
    .shard-000000.idx.tmp-*   written, fsync              (and a record, where there is one)
    rename record, rename idx, rename tar                       the shard exists from here on
    fsync of the folder

Members of a sample are contiguous and in the order of `parts`; times and owners are zero. Killed
at any point, the writer leaves temporaries, which the next writer of the shard sweeps, or an index
without a tar, which is not a shard.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from shards.codec import Payload
from shards.errors import SampleError, ShardError
from shards.files import disk_errors, fsync_folder, sweep, temporary_name, write_temporary
from shards.index import ENTRY, MAX_PARTS, ShardIndex, index_path, make_index
from shards.keys import make_keys
from shards.stream import OutputFile
from shards.tar import BLOCK_BYTES, END, check_key, header, padding

RECORD_SUFFIX = ".parquet"


class ShardWriter:
    """Write `path` (a `.tar`) with members `KEY.PART` for the given parts, in that order.

    Use as a context manager: leaving it without `commit` removes what was written. Every method
    raises ShardError when the disk refuses, after removing the temporaries.
    """

    def __init__(
        self, path: Path, parts: Sequence[str], record_suffix: str = RECORD_SUFFIX
    ) -> None:
        if len(parts) > MAX_PARTS:
            raise ShardError(f"{len(parts)} parts in a sample; an index holds {MAX_PARTS}")
        self.path = path
        self.parts = tuple(parts)
        self._record_suffix = record_suffix
        self._present: list[int] = []
        self._entries: list[list[tuple[int, int, int]]] = []
        self._keys: dict[str, None] = {}
        self._num_bytes = 0
        self._index: ShardIndex | None = None
        self._temporary = temporary_name(path)
        self._file: OutputFile | None = None
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent, f".{path.stem}.*.tmp-*")
            self._file = OutputFile(self._temporary)

    def add(self, key: str, members: Mapping[str, bytes] | Mapping[str, Payload]) -> int:
        """Append one sample; `members` maps parts to bytes. Returns the bytes it takes in the tar.

        Raises SampleError for a key that cannot be used; the shard stays as it was.
        """
        assert self._file is not None
        assert members.keys() <= set(self.parts)
        check_key(key)
        if key in self._keys:
            raise SampleError(f"the key {key!r} comes twice in {self.path}")
        buffers: list[bytes | memoryview] = []
        present, offset = 0, self._num_bytes
        entries = [(0, 0, 0)] * len(self.parts)
        for p, part in enumerate(self.parts):
            if part not in members:
                continue
            data = members[part]
            payload = (data,) if isinstance(data, bytes) else data
            size = sum(map(len, payload))
            present |= 1 << p
            entries[p] = (offset // BLOCK_BYTES + 1, size, _digest(payload))
            buffers += (header(f"{key}.{part}", size), *payload, padding(size))
            offset += BLOCK_BYTES + size + -size % BLOCK_BYTES
        with self._cleaning():
            self._file.write(buffers)
        added, self._num_bytes = offset - self._num_bytes, offset
        self._present.append(present)
        self._entries.append(entries)
        self._keys[key] = None
        return added

    def close(self) -> ShardIndex:
        """End the tar and make it durable under its temporary name; returns its index."""
        assert self._file is not None
        with self._cleaning():
            self._file.write([END])
            self._file.sync()
            self._file.close()
        self._index = make_index(
            parts=self.parts,
            tar_bytes=self._num_bytes + len(END),
            present=np.array(self._present, "<u4"),
            entries=np.array(self._entries, ENTRY).reshape(-1, len(self.parts)),
            keys=make_keys(list(self._keys)),
        )
        return self._index

    def commit(self, record: bytes | None = None) -> ShardIndex:
        """Make the shard exist, together with an optional record beside it."""
        index = self._index or self.close()
        files = {index_path(self.path): index.to_bytes()}
        if record is not None:
            files = {self.path.with_suffix(self._record_suffix): record} | files
        with self._cleaning():
            written = {path: write_temporary(path, data) for path, data in files.items()}
            for path, temporary in written.items():
                temporary.rename(path)
            self._temporary.rename(self.path)
            fsync_folder(self.path.parent)
        return index

    def abort(self) -> None:
        """Remove the temporaries; nothing of this shard remains."""
        if self._file is not None:
            self._file.close()
        for path in (self.path, index_path(self.path), self.path.with_suffix(self._record_suffix)):
            temporary_name(path).unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    @contextlib.contextmanager
    def _cleaning(self) -> Iterator[None]:
        # Free what this shard took before the error is told: the disk may be full for others too.
        with disk_errors(self.path.parent):
            try:
                yield
            except OSError:
                self.abort()
                raise


def _digest(payload: Payload) -> int:
    if len(payload) == 1:
        return xxhash.xxh3_64_intdigest(payload[0])
    state = xxhash.xxh3_64()
    for piece in payload:
        state.update(piece)
    return state.intdigest()
