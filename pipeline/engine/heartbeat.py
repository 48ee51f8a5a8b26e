"""Signs of life of every rank, and a watch that names the one that has none.

    RUN/heartbeat/rank-0003.json          {"time", "step", "phase", "since", "host", "pid"}
    RUN/heartbeat/rank-0003.stacks.txt    where each thread of a rank that made no progress stood

A thread rewrites the first every few seconds, progress or not: a file that has become old means a
process that is dead or frozen, an old `since` one that waits. When a rank makes no progress, usually
because another does not come to a collective, the first rank compares all files and says who.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import WatchConfig

STALLED = 70
"""Exit code of ranks that left because training made no progress (EX_SOFTWARE): a crash like others."""

FINISHING = "finish"
"""The phase of a rank that writes what a finished run leaves, or waits for the one that does."""

WAITING = "wait"
"""The phase of a rank that waits for the others."""


@dataclass(frozen=True)
class _Progress:
    """`since` is the time of day, for people; `clock` does not jump when somebody sets that."""

    step: int
    phase: str
    since: float
    clock: float


class Heartbeat:
    """This rank's sign of life and watch; `at` tells it where the training loop is."""

    def __init__(self, folder: Path, rank: int, num_ranks: int, config: WatchConfig):
        self._folder, self._rank, self._num_ranks = folder / "heartbeat", rank, num_ranks
        self._config = config
        self.at(0, "start")
        self._reported = False
        self._stop = threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def at(self, step: int, phase: str) -> None:
        """The loop has got here."""
        self._progress = _Progress(step, phase, time.time(), time.monotonic())

    def close(self) -> None:
        """Stop; the file of a rank that left in order is taken away."""
        self._stop.set()
        self._thread.join()
        self._path(self._rank).unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            # A full disk must not end the watch, which needs no disk to abort.
            with contextlib.suppress(OSError):
                self._beat()
            self._look()
            if self._stop.wait(self._config.beat_s):
                return

    def _beat(self) -> None:
        progress = self._progress
        beat = {
            "time": round(time.time(), 2),
            "step": progress.step,
            "phase": progress.phase,
            "since": round(progress.since, 2),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        path = self._path(self._rank)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(beat))
        partial.rename(path)

    def _look(self) -> None:
        stalled_s = time.monotonic() - self._progress.clock
        if stalled_s < self._config.stall_s:
            self._reported = False
            return
        if not self._reported:
            self._reported = True
            self._report(stalled_s)
        # What an objective writes at the very end may take as long as it likes.
        patient = not self._config.abort_s or self._progress.phase == FINISHING
        if not patient and stalled_s > self._config.abort_s:
            _tell(f"rank {self._rank}: no progress for {stalled_s:.0f} s, leaving with {STALLED}")
            os._exit(STALLED)

    def _report(self, stalled_s: float) -> None:
        path = self._folder / f"rank-{self._rank:04d}.stacks.txt"
        with contextlib.suppress(OSError), path.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        if self._rank == 0:
            progress = self._progress
            _tell(
                f"no progress for {stalled_s:.0f} s at step {progress.step} ({progress.phase}): "
                f"{'; '.join(self._behind())}. Stacks are in {self._folder}"
            )

    def _behind(self) -> list[str]:
        """Who holds the others up, as far as their files tell."""
        now, found = time.time(), []
        beats = {rank: read_beat(self._path(rank)) for rank in range(self._num_ranks)}
        last = max((b["step"] for b in beats.values() if b), default=0)
        for rank, beat in beats.items():
            if beat is None:
                found.append(f"rank {rank} has left no heartbeat")
            elif now - beat["time"] > 4 * self._config.beat_s + 2:
                found.append(
                    f"rank {rank} (process {beat['pid']} on {beat['host']}) is dead or frozen since "
                    f"{now - beat['time']:.0f} s, at step {beat['step']} ({beat['phase']})"
                )
            elif beat["step"] < last or beat["phase"] != WAITING:
                found.append(
                    f"rank {rank} on {beat['host']} is at step {beat['step']} ({beat['phase']})"
                )
        return found or ["all ranks wait for each other"]

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank:04d}.json"


def read_beat(path: Path) -> dict[str, Any] | None:
    """A heartbeat, or None where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _tell(text: str) -> None:
    # A log on a full disk, or closed by whoever read it, must not end the watch either.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"watch: {text}\n")
        sys.stderr.flush()
