"""Who builds which shard: the largest first, to whoever is free.

One rank: a plain loop. Several: rank 0 leads and works too; between two samples of its own it
answers the others, which wait for at most one sample. Only two-sided messages and probes are used,
because one-sided progress stalls behind a busy rank in some MPI libraries (MPICH 5: one second).

    follower -> leader   (rank, "ready" | "done" | "failed", payload)
    leader -> follower   a task, or None: there is nothing left for you
    leader -> follower   the outcome: None, or the ShardError with which every rank ends

An error on any rank stops the handing out; shards under way are finished and committed, then all
ranks leave with the same error. Nobody waits in a collective call that another has left.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from shards.errors import ShardError

_REPORT, _TASK, _OUTCOME = 1, 2, 3
# MPI's own waiting burns a core that another rank could use.
_POLL_S = 0.002

Idle = Callable[[], None]


class Comm(Protocol):
    """What is used of an mpi4py communicator."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def send(self, obj: Any, dest: int, tag: int = 0) -> None: ...
    def recv(self, *, source: int = ..., tag: int = ...) -> Any: ...
    def iprobe(self, source: int = ..., tag: int = ...) -> bool: ...


class Leader:
    """Rank 0: hands out tasks, gathers results, and ends all ranks in the same way.

    `brief` turns a task into what is sent with it at that moment; `accept` takes each result and may
    raise ShardError to stop the build. `comm` is None for a single process.
    """

    def __init__(
        self, comm: Comm | None, brief: Callable[[Any], Any], accept: Callable[[Any], None]
    ) -> None:
        self._comm = comm
        self._brief = brief
        self._accept = accept
        self._tasks: deque[Any] = deque()
        self._followers = comm.size - 1 if comm else 0
        self.error: ShardError | None = None

    def run(self, tasks: Iterable[Any], work: Callable[[Any, Idle], Any]) -> None:
        """Do all tasks, here and on the followers. Raises the first ShardError of any rank."""
        self._tasks.extend(tasks)
        while (task := self._next()) is not None:
            self._take(*_attempt(work, task, self._serve))
            self._serve()
        self._drain()
        if self.error:
            raise self.error

    def dismiss(self, error: ShardError | None) -> None:
        """Send every follower home with the outcome; also right when `run` was never reached."""
        if self._comm is None:
            return
        self._tasks.clear()
        self._drain()
        for rank in range(1, self._comm.size):
            self._comm.send(error, dest=rank, tag=_OUTCOME)

    def _next(self) -> Any:
        if self.error or not self._tasks:
            return None
        return self._brief(self._tasks.popleft())

    def _take(self, kind: str, payload: Any) -> None:
        if kind == "done":
            try:
                self._accept(payload)
            except ShardError as error:
                self.error = self.error or error
            except Exception:
                # Whoever sent the result waits for an answer: a bug here must not stay one.
                self.error = self.error or _unexpected()
        elif kind == "failed":
            self.error = self.error or payload

    def _serve(self) -> None:
        while self._followers and self._comm and self._comm.iprobe(tag=_REPORT):
            rank, kind, payload = self._comm.recv(tag=_REPORT)
            self._take(kind, payload)
            task = self._next()
            if task is None:
                self._followers -= 1
            self._comm.send(task, dest=rank, tag=_TASK)

    def _drain(self) -> None:
        while self._followers:
            self._serve()
            time.sleep(_POLL_S)


def follow(comm: Comm, work: Callable[[Any, Idle], Any]) -> None:
    """Every other rank: work until dismissed. Raises the build's ShardError, whoever caused it."""
    kind, payload = "ready", None
    while True:
        comm.send((comm.rank, kind, payload), dest=0, tag=_REPORT)
        task = _wait(comm, _TASK)
        if task is None:
            break
        kind, payload = _attempt(work, task, lambda: None)
    outcome = _wait(comm, _OUTCOME)
    if outcome is not None:
        raise outcome


def _wait(comm: Comm, tag: int) -> Any:
    while not comm.iprobe(source=0, tag=tag):
        time.sleep(_POLL_S)
    return comm.recv(source=0, tag=tag)


def _attempt(work: Callable[[Any, Idle], Any], task: Any, idle: Idle) -> tuple[str, Any]:
    try:
        return "done", work(task, idle)
    except ShardError as error:
        return "failed", error
    except Exception:
        # A bug must end all ranks, not hang them; its trace goes along, since it crosses processes.
        return "failed", _unexpected()


def _unexpected() -> ShardError:
    return ShardError(f"unexpected error in a build rank:\n{traceback.format_exc()}")
