"""One shard's files against its manifest and its index: sizes, tar headers, digests."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from shards.checks.report import ShardErrors
from shards.errors import DamagedError, ShardError
from shards.files import raw
from shards.index import ShardIndex, index_path, read_index
from shards.tar import BLOCK_BYTES, END, parse_header


@dataclass(frozen=True)
class StoredShard:
    """A shard of the data set or of an extra, as its manifest lists it."""

    tar: Path
    digest: str
    tar_bytes: int


def check_sizes(shard: StoredShard, errors: ShardErrors) -> ShardIndex | None:
    """The shard's index when there is a tar to read by it; tells what is missing or of another size."""
    path = index_path(shard.tar)
    try:
        index = read_index(path)
    except ShardError as error:
        errors.add("sizes", path, str(error))
        return None
    if index.digest != shard.digest:
        errors.add("sizes", path, "is another index than the manifest's")
        return None
    if not shard.tar.is_file():
        errors.add("sizes", shard.tar, "missing")
        return None
    size = shard.tar.stat().st_size
    if size != shard.tar_bytes:
        errors.add("sizes", shard.tar, f"{size} bytes, {shard.tar_bytes} expected")
    return index


class TarWalk:
    """Read a tar once, front to back, beside its index.

    Use as a context manager: call `member` for every part that is there, in the order of samples and
    parts, then `finish`. What is wrong becomes an error of the shard, also where the disk cannot read.
    """

    def __init__(self, tar: Path, index: ShardIndex, errors: ShardErrors, *, digests: bool) -> None:
        self.tar, self.index = tar, index
        self._errors, self._digests = errors, digests
        self._fd = -1
        self._num_bytes = 0
        self._expected = 0
        self._behind: list[str] = []

    def member(self, i: int, p: int, key: str) -> memoryview | None:
        """Check one member; its data where digests are checked and this one fits."""
        if self._fd < 0:
            return None
        name = f"{key}.{self.index.parts[p]}"
        block, size, digest = self.index.entries[i, p].tolist()
        offset = block * BLOCK_BYTES
        if offset - BLOCK_BYTES != self._expected:
            self._tell("walk", f"{name} does not follow the member before it")
        self._expected = offset + size + -size % BLOCK_BYTES
        if offset + size > self._num_bytes:
            self._behind.append(name)
            return None
        data = self._read(BLOCK_BYTES + (size if self._digests else 0), offset - BLOCK_BYTES)
        if data is None:
            return None
        self._check_header(bytes(data[:BLOCK_BYTES]), name, offset - BLOCK_BYTES, size)
        if not self._digests:
            return None
        data = data[BLOCK_BYTES:]
        if xxhash.xxh3_64_intdigest(data) != digest:
            self._tell("digests", f"offset {offset}, {name}: damaged bytes")
            return None
        return data

    def finish(self) -> None:
        """Check the end of the tar."""
        if self._fd < 0:
            return
        if self._behind:
            self._tell(
                "walk",
                f"the file ends after {self._num_bytes} bytes: {len(self._behind)} parts lie behind "
                f"its end, the first is {self._behind[0]}",
            )
        num = max(0, self._num_bytes - self._expected)
        tail = self._read(min(num, len(END)), self._expected)
        if tail is not None and (num != len(END) or tail != END):
            self._tell("walk", f"{num} bytes after the last member, two zero blocks expected")

    def __enter__(self) -> "TarWalk":
        try:
            self._fd = os.open(self.tar, os.O_RDONLY | os.O_CLOEXEC)
            self._num_bytes = os.fstat(self._fd).st_size
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except OSError as error:
            self._tell("walk", f"cannot be opened: {error}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _check_header(self, block: bytes, name: str, offset: int, size: int) -> None:
        try:
            header = parse_header(block)
        except DamagedError as error:
            self._tell("walk", f"offset {offset}, {name}: {error}")
            return
        if header is None or tuple(header) != (name, size):
            found = f"{header.name}, {header.num_bytes} bytes" if header else "the end"
            self._tell("walk", f"offset {offset}: {found}; {name} is there by the index")

    def _read(self, size: int, offset: int) -> memoryview | None:
        """Bytes that lie within the file; None after telling that they cannot be read."""
        buffer = raw(np.empty(size, np.uint8))
        done = 0
        try:
            while done < size:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
                if count == 0:
                    raise OSError("the file became shorter while it was read")
                done += count
        except OSError as error:
            self._tell("walk", f"offset {offset}: cannot be read: {error}")
            return None
        return buffer

    def _tell(self, level: str, what: str) -> None:
        self._errors.add(level, self.tar, what)
