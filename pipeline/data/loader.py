"""Batches from a cursor: threads that read ahead, and nothing to save but one integer.

    cursor, rank, world -> positions of this rank in the step -> samples -> micro-batches

A step consumes positions [cursor, cursor + G). Rank r of W takes the slice [r*G//W, (r+1)*G//W) and
cuts it into as many micro-batches as every other rank, so that collectives stay in step. Rank
slices of all world sizes tile the same global batch.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.data.cursor import cursors
from pipeline.data.order import Stream
from shards import DamagedError

Batch = dict[str, Tensor]
MAX_STAND_INS = 64


@dataclass(frozen=True)
class Slice:
    """This rank's part of every global batch, cut into micro-batches.

    Raises ValueError when some rank would get an empty micro-batch.
    """

    global_batch: int
    micro_batch: int
    rank: int
    world: int

    def __post_init__(self) -> None:
        if self.global_batch // self.world < self.num_micro:
            raise ValueError(
                f"global_batch {self.global_batch} cannot be cut into {self.num_micro} micro-batches "
                f"on each of {self.world} ranks; use fewer ranks, a larger global_batch, or a larger "
                "micro_batch"
            )

    @property
    def num_micro(self) -> int:
        largest = -(-self.global_batch // self.world)
        return 1 if self.micro_batch == 0 else -(-largest // self.micro_batch)

    def positions(self, cursor: int) -> list[np.ndarray]:
        """Stream positions of each micro-batch of the step that starts at `cursor`."""
        start = cursor + self.rank * self.global_batch // self.world
        stop = cursor + (self.rank + 1) * self.global_batch // self.world
        return np.array_split(np.arange(start, stop, dtype=np.int64), self.num_micro)


@dataclass(frozen=True)
class Damage:
    """A sample that could not be read, and who stood in for it."""

    position: int
    index: int
    stand_in: int
    reason: str


class Loader:
    """Endless steps of micro-batches, read ahead by `readers` threads.

    The first step starts at `cursor`, or behind it: none touches a stretch of `left_out`.
    `sample(index, rng, cursor)` reads and transforms one sample; the cursor is where its step starts,
    the same for all samples of the step on all ranks. `collate(samples)` makes a batch. A damaged
    sample is replaced by one drawn for its position, whichever rank meets it: ranks stay in step and
    a run that is started again sees the same. `take_damage` tells of it. Any other error in a thread
    is raised where the batch is asked for.
    """

    def __init__(
        self,
        order: Stream,
        sample: Callable[[int, np.random.Generator, int], Any],
        collate: Callable[[list[Any]], Batch],
        part: Slice,
        cursor: int = 0,
        prefetch: int = 2,
        readers: int = 1,
        left_out: Iterable[tuple[int, int]] = (),
    ):
        self._order, self._sample, self._collate, self._part = order, sample, collate, part
        self._queue: queue.Queue[list[Batch] | BaseException] = queue.Queue(
            maxsize=max(1, prefetch)
        )
        self._stop = threading.Event()
        self._damage: queue.SimpleQueue[Damage] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        starts = cursors(cursor, part.global_batch, left_out)
        self._thread = threading.Thread(target=self._run, args=(starts,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def take_damage(self) -> list[Damage]:
        """What was damaged since the last call, in the batches read so far."""
        found = []
        while not self._damage.empty():
            found.append(self._damage.get())
        return found

    def close(self) -> None:
        """Stop the threads; batches read ahead are dropped (the cursor never counted them)."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, starts: Iterator[int]) -> None:
        try:
            # One step more than is being collated keeps all readers busy.
            coming = deque([self._begin(next(starts))])
            while not self._stop.is_set():
                coming.append(self._begin(next(starts)))
                self._put([self._batch(futures) for futures in coming.popleft()])
        except BaseException as error:  # handed to the consumer, which raises it
            self._put(error)

    def _begin(self, cursor: int) -> list[list[Future[Any]]]:
        """Start reading a step: the samples to come, by micro-batch."""
        micro = []
        for positions in self._part.positions(cursor):
            indices = self._order.samples(positions)
            pairs = zip(indices.tolist(), positions.tolist(), strict=True)
            micro.append([self._pool.submit(self._read, i, p, cursor) for i, p in pairs])
        return micro

    def _batch(self, futures: list[Future[Any]]) -> Batch:
        return self._collate([future.result() for future in futures])

    def _read(self, index: int, position: int, cursor: int) -> Any:
        for attempt in range(MAX_STAND_INS):
            if self._stop.is_set():
                raise _Stopped
            try:
                return self._sample(index, self._order.rng(position), cursor)
            except DamagedError as error:
                stand_in = self._order.replacement(position, attempt)
                self._damage.put(Damage(position, index, stand_in, str(error)))
                index, last = stand_in, error
        raise DamagedError(
            f"{MAX_STAND_INS} samples in a row are damaged, so the data set is; the last: {last}"
        )

    def _put(self, item: "list[Batch] | BaseException") -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


class _Stopped(Exception):
    """The loader was closed while a sample was waiting to be read."""
