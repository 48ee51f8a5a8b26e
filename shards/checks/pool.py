"""Shards one after the other, or several at a time in processes of their own."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from shards.checks.shard import Context, ShardResult, ShardTask, check_shard
from shards.errors import ShardError

_AHEAD = 2


def check_shards(context: Context, tasks: Iterable[ShardTask], jobs: int) -> Iterator[ShardResult]:
    """The results in the order of the tasks; only a few wait for their turn.

    Processes are spawned: they inherit neither threads nor locks. Raises ShardError when one dies.
    """
    if jobs == 1:
        for task in tasks:
            yield check_shard(context, task)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[ShardResult]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(check_shard, context, task))
                if len(waiting) > _AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ShardError(
                "a process of the check was killed, perhaps because memory ran out; run it again "
                "with a smaller --jobs"
            ) from error
