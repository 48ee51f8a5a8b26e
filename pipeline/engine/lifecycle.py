"""A run's folder and a run's end: lock, records, signals, exit codes.

    RUN/config.yaml     the resolved configuration         RUN/run.json  versions, data, machine
    RUN/attempts.jsonl  one line per start                 RUN/.lock     held while a run is alive
    RUN/DONE            the run has finished
    RUN/FAILED          it gave up, and why; removed by the next start
    RUN/SAVE            made by a person: commit now; removed once that is done
    RUN/KILL            made by a person: commit and leave, and do not start again while it is there

Signals only set a flag. The loop asks all ranks at each step boundary, commits, and leaves with
`REQUEUE`; what to resume is decided from the disk alone, so a requeued job keeps its command line.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import xxhash

from configs import to_yaml
from configs.schema import RunConfig
from pipeline.engine.errors import DivergedError, RunError
from shards.files import fsync_folder, write_temporary

OK = 0
USER_ERROR = 2
GAVE_UP = 65
REQUEUE = 75

_PACKAGES = ("torch", "deepspeed", "numpy", "blosc2", "webdataset", "submitit", "mpi4py")
_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class StopFlag:
    """Set by a signal, read at step boundaries. Restores and can call the handlers it replaced."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._leaving = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._set)
        # Whoever starts a rank may hold these back until here, so that none comes too early.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # Ranks leave one after another, and Slurm answers the first with TERM to the rest: it must
            # not make a crash of a rank that is on its way out with the state committed.
            back = signal.SIG_IGN if self._leaving else handler
            signal.signal(number, back if back is not None else signal.SIG_DFL)

    def __bool__(self) -> bool:
        return self.received is not None

    def leave(self) -> None:
        """The process ends now; signals that still come change nothing."""
        self._leaving = True

    def chain(self) -> None:
        """Call the handler that was there before ours (submitit's requeues the job)."""
        if self.received is not None:
            previous = self._previous.get(self.received)
            if callable(previous):
                previous(self.received, None)

    def _set(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold RUN/.lock; the kernel lets go of it however the process ends.

    Raises RunError when another process trains in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{folder} is in use by {holder}; wait for it, stop it, or write out=ANOTHER_FOLDER"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def file_digest(path: Path) -> str:
    """xxh3-128 of a file, read in blocks."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none. Raises OSError."""
    write_temporary(path, text.encode()).rename(path)
    fsync_folder(path.parent)


def write_records(
    folder: Path, config: RunConfig, world_size: int, step: int, about: dict[str, Any]
) -> None:
    """Everything the run was made of, beside what it makes; and that it has started once more."""
    # First: beside the new configuration it would say that what begins now is done.
    (folder / "DONE").unlink(missing_ok=True)
    write_atomic(folder / "config.yaml", to_yaml(config))
    started = time.time()
    record = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "world_size": world_size,
        **about,
        "code": code_version(),
        "python": platform.python_version(),
        "packages": versions(),
        "host": socket.gethostname(),
    }
    write_atomic(folder / "run.json", json.dumps(record, indent=1))
    attempt = {
        "time": round(started, 2),
        "step": step,
        "world_size": world_size,
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }
    with (folder / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(attempt) + "\n")
    (folder / "FAILED").unlink(missing_ok=True)


def wishes(folder: Path) -> tuple[bool, bool]:
    """What a person asks of a running run: (commit now, commit and leave)."""
    return (folder / "SAVE").exists(), (folder / "KILL").exists()


def mark_failed(folder: Path, error: RunError) -> None:
    """Say in the run's folder that it ended with an error, so that no log has to be looked for."""
    code = GAVE_UP if isinstance(error, DivergedError) else USER_ERROR
    record = {"code": code, "reason": str(error), "time": round(time.time(), 2)}
    write_atomic(folder / "FAILED", json.dumps(record))


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run computes."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_version() -> str:
    """The git revision of the code, with `+changes` where it differs from it; else the release.

    A submitted job runs from a copy of the code, which says itself what it is a copy of.
    """
    root = Path(__file__).parents[2]
    if (root / "CODE_VERSION").is_file():
        return (root / "CODE_VERSION").read_text().strip()
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return importlib.metadata.version("eo-pretrain")


def mark_done(folder: Path, step: int, values: dict[str, float]) -> None:
    """The run has reached its last step and left everything it should leave."""
    write_atomic(folder / "DONE", json.dumps({"step": step, **values}))


def read_done(folder: Path) -> dict[str, Any] | None:
    """What `mark_done` wrote, or None."""
    path = folder / "DONE"
    return json.loads(path.read_text()) if path.is_file() else None
