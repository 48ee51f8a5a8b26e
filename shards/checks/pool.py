"""Shards one after the other, or several at a time in processes of their own.

A pipe to each process and nothing else: no semaphore or shared memory that has a name, which a killed
check would leave behind, and a process whose pipe closes goes home.
"""

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from shards.checks.notes import ShardResult
from shards.checks.shard import Context, ShardTask, check_shard
from shards.errors import ShardError

_AHEAD = 4


def check_shards(context: Context, tasks: Sequence[ShardTask], jobs: int) -> Iterator[ShardResult]:
    """The results in the order of the tasks; only a few wait for their turn.

    Processes are spawned: they inherit neither threads nor locks. Raises ShardError when one dies.
    """
    if jobs == 1:
        for task in tasks:
            yield check_shard(context, task)
        return
    with _workers(context, min(jobs, len(tasks))) as idle:
        busy: dict[Connection, int] = {}
        early: dict[int, ShardResult] = {}
        begun = given = 0
        while given < len(tasks):
            while idle and begun < min(len(tasks), given + _AHEAD * jobs):
                worker = idle.pop()
                with _living():
                    worker.send(tasks[begun])
                busy[worker] = begun
                begun += 1
            for worker in wait(list(busy)):
                assert isinstance(worker, Connection)
                with _living():
                    early[busy.pop(worker)] = worker.recv()
                idle.append(worker)
            while given in early:
                yield early.pop(given)
                given += 1


@contextlib.contextmanager
def _workers(context: Context, num: int) -> Iterator[list[Connection]]:
    """Connections to `num` processes, which end with the block."""
    spawn = multiprocessing.get_context("spawn")
    ours: list[Connection] = []
    processes = []
    try:
        for _ in range(num):
            mine, theirs = spawn.Pipe()
            ours.append(mine)
            processes.append(spawn.Process(target=_serve, args=(theirs, context), daemon=True))
            processes[-1].start()
            theirs.close()
        yield list(ours)
    finally:
        for connection in ours:
            connection.close()
        for process in processes:
            process.join()


def _serve(connection: Connection, context: Context) -> None:
    """Answer tasks with results until the other end closes."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(check_shard(context, connection.recv()))


@contextlib.contextmanager
def _living() -> Iterator[None]:
    """Turn the end of a process into a ShardError."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise ShardError(
            "a process of the check ended; above is why, unless memory ran out: then run it again "
            "with a smaller --jobs"
        ) from error
