"""Rank processes of one step as children of this one, in the foreground.

- Rank 0 inherits the terminal, so its progress line lives; the other ranks write into log files.
- Each rank leads its own session: Ctrl-C reaches this process alone, which passes on SIGTERM, so
  that training commits and leaves. A second Ctrl-C kills.
- The first rank that fails ends the others after a grace period: without it, they cannot vote.
- Nothing outlives this process, see `launch.child`.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from launch import child
from launch.errors import PREEMPTED

_NUM_LAST_LINES = 20


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its exit code, whether it was told to stop, and what to tell the user."""

    code: int
    stopped: bool = False
    message: str = ""


def rank_environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """What torch.distributed and DeepSpeed read, for ranks that all live on this machine."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    *,
    log_dir: Path,
    append: bool = False,
    grace_s: float = 10.0,
) -> Outcome:
    """Run `command` once per environment and wait for all of them.

    The code is that of the first rank that failed; else 75 if any rank asks to be started again;
    else 0. Signals that arrive here are passed on: INT, TERM and HUP as TERM, and then `stopped` is
    true; USR1 and USR2 as they are.
    """
    num_ranks = len(environments)
    exits: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []
    logs = {rank: log_dir / f"rank{rank}.log" for rank in range(1, num_ranks)}
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_forwarded(processes))
        stack.callback(_kill, processes)
        for rank, environment in enumerate(environments):
            log = stack.enter_context(_opened(logs.get(rank), append))
            process = _start(command, environment, log)
            processes.append(process)
            threading.Thread(target=_await, args=(rank, process, exits), daemon=True).start()
        signals.repeat()

        failed: list[tuple[int, int]] = []
        codes: dict[int, int] = {}
        deadline = float("inf")
        while len(codes) < num_ranks:
            with contextlib.suppress(queue.Empty):
                rank, code = exits.get(timeout=0.2)
                codes[rank] = code
                if code not in (0, PREEMPTED):
                    failed.append((rank, code))
                    deadline = min(deadline, time.monotonic() + grace_s)
            if time.monotonic() > deadline:
                _kill(processes)

    if signals.stopped is not None:
        preempted = signals.stopped != signal.SIGINT and PREEMPTED in codes.values()
        code = PREEMPTED if preempted else 128 + signals.stopped
        return Outcome(code, stopped=True, message=f"stopped by {signals.stopped.name}")
    if failed:
        rank, code = failed[0]
        message = _explain(rank, num_ranks, code, logs.get(rank))
        return Outcome(code if code > 0 else 128 - code, message=message)
    return Outcome(PREEMPTED if PREEMPTED in codes.values() else 0)


class _Signals:
    """What arrived, and passing it on to the ranks that are there."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes = processes
        self.stopped: signal.Signals | None = None

    def receive(self, number: int, _: FrameType | None) -> None:
        received = signal.Signals(number)
        if received in (signal.SIGUSR1, signal.SIGUSR2):
            self._send(received)
        elif self.stopped is None:
            self.stopped = received
            self._send(signal.SIGTERM)
        else:
            _kill(self.processes)

    def repeat(self) -> None:
        """Tell the ranks that were not there yet when the signal came."""
        if self.stopped is not None:
            self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        # To the rank alone, not its group: data workers that die first would fail the last step.
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


@contextlib.contextmanager
def _forwarded(processes: list[subprocess.Popen[bytes]]) -> Iterator[_Signals]:
    signals = _Signals(processes)
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, signals.receive) for number in names}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _opened(path: Path | None, append: bool) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if append else "wb") as file:
        yield file


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    shim = [sys.executable, "-I", "-S", child.__file__, str(os.getpid())]
    return subprocess.Popen(
        [*shim, *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _await(
    rank: int, process: subprocess.Popen[bytes], exits: "queue.SimpleQueue[tuple[int, int]]"
) -> None:
    exits.put((rank, process.wait()))


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        # The whole session, data workers included, even where its leader is gone already.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _explain(rank: int, num_ranks: int, code: int, log: Path | None) -> str:
    how = f"failed with exit code {code}" if code > 0 else f"was killed by {_name(-code)}"
    text = f"rank {rank} of {num_ranks} {how}"
    if log is None:
        return f"{text}; its output is above"
    lines = log.read_text(errors="replace").splitlines()[-_NUM_LAST_LINES:]
    return "\n".join([f"{text}; last lines of {log}:", *(f"  {line}" for line in lines)])


def _name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
