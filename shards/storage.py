"""Where the bytes of a tar come from: this machine's file system, a copy on a fast disk, or the net.

    local file      preadv
    URL             ranges, through fsspec (http, https, s3, ... whatever it has a driver for)
    cached          from the copy once there is one; until then from where it lies

A cache folder is filled in the background, one shard at a time, the processes of a machine taking
turns; a copy appears under its name only after every part in it had its digest. It stops growing at
its limit: with a random order, no shard is worth more than another.
"""

import contextlib
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import xxhash

from shards.errors import DamagedError, ShardError
from shards.files import atomic_path, hold_lock, raw, sweep
from shards.index import ShardIndex
from shards.tar import BLOCK_BYTES

_COPY_BYTES = 8 << 20


class TarFile(Protocol):
    """One open tar of `size` bytes."""

    size: int

    def read_into(self, buffers: list[memoryview], offset: int) -> int:
        """Fill the buffers from `offset` on; how many bytes were read. Raises OSError."""
        ...


class LocalFile:
    """A file descriptor, closed with its last reference."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read_into(self, buffers: list[memoryview], offset: int) -> int:
        return os.preadv(self._fd, buffers, offset)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


class RemoteFile:
    """A file behind a URL, read by ranges. Raises OSError, whatever its driver raises."""

    def __init__(self, url: str) -> None:
        self._fs, self._path = url_to_fs(url)
        with driver_errors(url):
            self.size = int(self._fs.size(self._path))

    def read_into(self, buffers: list[memoryview], offset: int) -> int:
        size = sum(map(len, buffers))
        with driver_errors(self._path):
            data = memoryview(self._fs.cat_file(self._path, start=offset, end=offset + size))
        done = 0
        for buffer in buffers:
            piece = data[done : done + len(buffer)]
            buffer[: len(piece)] = piece
            done += len(piece)
        return done


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def open_tar(path: str) -> TarFile:
    """Open a tar where it lies. Raises OSError, FileNotFoundError among them."""
    return RemoteFile(path) if is_url(path) else LocalFile(path)


@contextlib.contextmanager
def driver_errors(url: str) -> Iterator[None]:
    """Turn what a driver raises inside the block into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # Every driver has its own, without a class in common: HTTP states, broken answers, ...
        raise OSError(f"{url}: {error!r}") from error


def url_to_fs(url: str) -> tuple[Any, str]:
    """The file system behind a URL and the path in it. Raises ShardError naming what to install."""
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ShardError(
            f"{url}: {error}; install the driver: pip install .[http] for http and https"
        ) from error


class ShardCache:
    """Copies of shards in `folder`, at most `limit_bytes` of them.

    `refused` are those that this process found not to fit, or could not copy.
    """

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self.folder = folder
        self.refused: set[str] = set()
        self._limit = limit_bytes
        self._wanted: queue.SimpleQueue[tuple[str, str, ShardIndex] | threading.Event]
        self._wanted = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def locate(self, name: str, origin: str, index: Callable[[], ShardIndex]) -> str | None:
        """Where to read a shard such as `train/shard-000000` from now on; None while that is open.

        That is its copy, or `origin` where it was refused. Asking for it the first time has it copied
        in the background, by the index that is asked for then.
        """
        path = self.folder / f"{name}.tar"
        if path.exists():
            return str(path)
        if name in self.refused:
            return origin
        with self._lock:
            if self._pid != os.getpid():
                # After a fork the copying thread is the parent's.
                self._thread, self._asked, self._pid = None, set(), os.getpid()
            if name not in self._asked:
                self._asked.add(name)
                self._wanted.put((name, origin, index()))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, daemon=True)
                    self._thread.start()
        return None

    def wait(self) -> None:
        """Until everything asked for was copied or refused (for tests and measurements)."""
        done = threading.Event()
        self._wanted.put(done)
        if self._asked:
            done.wait()

    def _run(self) -> None:
        while True:
            job = self._wanted.get()
            if isinstance(job, threading.Event):
                job.set()
                continue
            try:
                self._copy(*job)
            except (OSError, ShardError):
                # Without a copy the shard is read where it lies, and its damage is told there.
                self.refused.add(job[0])

    def _copy(self, name: str, origin: str, index: ShardIndex) -> None:
        path = self.folder / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        # One at a time: two would both see the room that there is for one of them.
        with hold_lock(self.folder / ".lock"):
            if path.exists():
                return
            sweep(path.parent)
            used = sum(p.stat().st_size for p in self.folder.rglob("*.tar"))
            room = min(self._limit - used, shutil.disk_usage(self.folder).free)
            if index.tar_bytes > room:
                raise ShardError(f"{self.folder} has no room for {name}")
            with atomic_path(path) as temporary:
                with temporary.open("wb") as out:
                    _copy_all(open_tar(origin), out)
                check_parts(temporary, index)


def check_parts(tar: Path, index: ShardIndex) -> None:
    """Read every part of a shard. Raises DamagedError for one that differs from its digest."""
    file = LocalFile(tar)
    if file.size != index.tar_bytes:
        raise DamagedError(f"{tar}: {file.size} bytes, {index.tar_bytes} expected")
    entries = index.entries[index.entries["block"] > 0]
    buffer = np.empty(int(entries["size"].max(initial=0)), np.uint8)
    for block, size, digest in entries.tolist():
        view = raw(buffer)[:size]
        if file.read_into([view], block * BLOCK_BYTES) < size:
            raise DamagedError(f"{tar}: it ends inside a part")
        if xxhash.xxh3_64_intdigest(view) != digest:
            raise DamagedError(f"{tar}, offset {block * BLOCK_BYTES}: differs from its digest")


def _copy_all(source: TarFile, out: IO[bytes]) -> None:
    buffer = memoryview(bytearray(_COPY_BYTES))
    offset = 0
    while offset < source.size:
        count = source.read_into([buffer[: min(_COPY_BYTES, source.size - offset)]], offset)
        if count == 0:
            raise OSError("the file got shorter while it was copied")
        out.write(buffer[:count])
        offset += count
