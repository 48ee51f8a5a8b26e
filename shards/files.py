"""Files that appear whole or not at all, and disk errors that tell the user what to do.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

A temporary name starts with a dot and ends in `.tmp-HOST-PID`; readers never look at it. What a
killed process leaves is swept by the next one that is known to be alone: the next writer of the same
shard, the next build of the folder, the commit of an extra.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError

Pieces = Iterator[bytes | memoryview]


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def temporary_name(path: Path) -> Path:
    """Where `path` is written before it is committed; unique per process."""
    return path.with_name(f".{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")


def sweep(folder: Path, pattern: str = ".*.tmp-*") -> None:
    """Remove temporaries that killed writers left; only where no other writer is at work."""
    for leftover in folder.glob(pattern):
        leftover.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte: a nearly full disk makes `os.write` stop short before it fails."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_temporary(path: Path, data: bytes | Pieces) -> Path:
    """Write `data` under a temporary name and fsync it; returns that name, ready for a rename."""
    temporary = temporary_name(path)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                write_all(fd, piece)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_atomic(path: Path, data: bytes | Pieces) -> None:
    """Replace `path` by `data` (bytes, or pieces one after the other) in one step.

    Raises ShardError when the disk refuses.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_temporary(path, data).rename(path)
        fsync_folder(path.parent)


@contextlib.contextmanager
def try_lock(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold a lock file for the block, alone or with others that share it; False where it is taken.

    The lock dies with the process. Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Wait for a lock file and hold it for the block. It dies with the process. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path for a library to write to; it becomes `path` when the block ends well.

    Raises ShardError when the disk refuses.
    """
    temporary = temporary_name(path)
    with disk_errors(path.parent):
        try:
            yield temporary
            fd = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` the same file by a hard link, or a copy where the file system has no such links.

    Raises ShardError when the disk refuses.
    """
    with disk_errors(path.parent), atomic_path(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a ShardError that says what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ShardError(
                f"no space left at {folder} ({_free_text(folder)}); free space there and run the "
                "same command again: finished shards are kept"
            ) from error
        raise ShardError(
            f"cannot write at {folder}: {error}; make the folder writable and run the same "
            "command again: finished shards are kept"
        ) from error


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, floats in full, NaN as the string "NaN"."""
    text = json.dumps(
        finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def finite(value: Any) -> Any:
    """The same value with non-finite floats as strings, which JSON has no numbers for.

    Pydantic reads "NaN", "Infinity" and "-Infinity" back to the floats they stand for.
    """
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _free_text(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    except OSError:
        return "free space unknown"
