"""Who is at work on what, told by files: for builds by processes that cannot talk to each other.

    OUT/claims/train-shard-000017.claim      made with O_EXCL by whoever takes the shard; JSON: host, pid
                                             touched while its owner lives; removed when it is done

A claim whose file was not touched for a lease's time is of a process that died; anyone may take it
over, one at a time. Ages are told by the file system's own clock, so the clocks of nodes need not
agree. A process that only seemed dead does no harm: whatever it writes has the same bytes, and appears
by a rename.
"""

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from shards.errors import ShardError
from shards.files import disk_errors

FOLDER = "claims"
_BEATS_PER_LEASE = 5


class Claims:
    """The claims of one build. Raises ShardError when the disk refuses."""

    def __init__(self, out: Path, lease_s: float) -> None:
        if lease_s <= 0:
            raise ShardError(f"a lease lasts some seconds, not {lease_s}")
        self.folder = out / FOLDER
        self.lease_s = lease_s
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with disk_errors(out):
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Take a claim for the block; True where it is ours, False where somebody else has it."""
        path = self._path(name)
        with disk_errors(self.folder):
            mine = self._take(path)
        if not mine:
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, done), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            if self._is_mine(path):
                path.unlink(missing_ok=True)

    def owns(self, name: str) -> bool:
        """Whether a claim that was taken is still ours: it is lost where its owner seemed dead."""
        return self._is_mine(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _take(self, path: Path) -> bool:
        if self._create(path):
            return True
        if not self.is_old(path):
            return False
        # Those who saw it expired take turns, and each looks again: a claim that one of them has just
        # made anew must not be taken for the old one.
        turn = path.with_suffix(".takeover")
        if not self._create(turn):
            if self.is_old(turn):
                turn.unlink(missing_ok=True)
            return False
        try:
            if self.is_old(path):
                path.unlink(missing_ok=True)
            return self._create(path)
        finally:
            turn.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(fd, "w") as file:
            json.dump({"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid()}, file)
        return True

    def is_old(self, path: Path) -> bool:
        """Whether a file was not touched for a lease's time; False where it is gone."""
        try:
            return age_s(path, self.folder / f".now-{self.owner}-{path.name}") > self.lease_s
        except FileNotFoundError:
            return False

    def _beat(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self.lease_s / _BEATS_PER_LEASE):
            # A touch that fails now may work at the next beat.
            with contextlib.suppress(OSError):
                if self._is_mine(path):
                    os.utime(path)

    def _is_mine(self, path: Path) -> bool:
        try:
            return json.loads(path.read_text())["owner"] == self.owner
        except (OSError, ValueError, KeyError):
            return False


def age_s(path: Path, clock: Path) -> float:
    """Seconds since `path` was touched, by the clock of its file system; `clock` is a file to ask it.

    Raises FileNotFoundError when it is gone.
    """
    clock.touch()
    try:
        return clock.stat().st_mtime - path.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)


def live_claims(out: Path) -> list[dict[str, object]]:
    """The claims there are, for `status`: shard, host, pid and the age of the last sign of life."""
    found: list[dict[str, object]] = []
    for path in sorted((out / FOLDER).glob("*.claim")):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(path.read_text())
            age = age_s(path, path.with_name(f".now-{os.getpid()}"))
            found.append(
                {
                    "claim": path.stem,
                    "host": told["host"],
                    "pid": told["pid"],
                    "age_s": round(age, 1),
                }
            )
    return found
