"""A growing file, written as fast as the disk takes it.

- Buffers go to the kernel where they lie (`writev`), none is copied or joined.
- Space is reserved ahead, so the file system lays the file out in long runs and a full disk is told
  before it is written to; what was reserved too much is given back at the end.
- Written ranges are handed to the disk at once (`sync_file_range`), so that the closing fsync has
  little left to wait for.

Where the system offers neither of the last two, it is plain buffered writing; the bytes are the same.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Buffer = bytes | memoryview

_AHEAD_BYTES = 64 << 20
_FLUSH_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
_MAX_BUFFERS = os.sysconf("SC_IOV_MAX")


class OutputFile:
    """Append buffers to a new file. Methods raise OSError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._size = self._flushed = self._reserved = 0
        self._reserves = True

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append all buffers, in order."""
        num_bytes = sum(map(len, buffers))
        self._reserve(num_bytes)
        for start in range(0, len(buffers), _MAX_BUFFERS):
            _write_all(self._fd, list(buffers[start : start + _MAX_BUFFERS]))
        self._size += num_bytes
        if self._size - self._flushed >= _FLUSH_BYTES:
            self._start_writeback()

    def sync(self) -> None:
        """Give back what was reserved too much and make the file durable."""
        if self._reserved > self._size:
            os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file, durable or not. Again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reserve(self, num_bytes: int) -> None:
        end = self._size + num_bytes
        if not self._reserves or end <= self._reserved:
            return
        ahead = end + _AHEAD_BYTES
        code = _fallocate(self._fd, self._reserved, ahead - self._reserved)
        if code == 0:
            self._reserved = ahead
            return
        # A nearly full disk may still hold what is asked for now: writing itself will tell.
        if code not in (errno.ENOSPC, errno.EDQUOT):
            self._reserves = False

    def _start_writeback(self) -> None:
        length = self._size - self._flushed
        function = _libc("sync_file_range")
        if function:
            # Only a hint: what it does not start, fsync does.
            function(self._fd, _off(self._flushed), _off(length), _SYNC_FILE_RANGE_WRITE)
        self._flushed = self._size


def _write_all(fd: int, buffers: list[Buffer]) -> None:
    """Every byte: a nearly full disk makes `writev` stop short before it fails."""
    while buffers:
        written = os.writev(fd, buffers)
        done = 0
        while done < len(buffers) and written >= len(buffers[done]):
            written -= len(buffers[done])
            done += 1
        buffers = buffers[done:]
        if buffers and written:
            buffers[0] = memoryview(buffers[0])[written:]


def _fallocate(fd: int, offset: int, length: int) -> int:
    """The error number, 0 for success. Unlike `os.posix_fallocate` it never falls back to writing."""
    function = _libc("fallocate")
    if function is None:
        return errno.ENOSYS
    return ctypes.get_errno() if function(fd, 0, _off(offset), _off(length)) else 0


_off = ctypes.c_int64


@functools.cache
def _libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)
