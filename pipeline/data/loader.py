"""Batches from a cursor: a thread that reads ahead, and nothing to save but one integer.

    cursor, rank, world -> positions of this rank in the step -> samples -> micro-batches

A step consumes positions [cursor, cursor + G). Rank r of W takes the slice [r*G//W, (r+1)*G//W) and
cuts it into as many micro-batches as every other rank, so that collectives stay in step. Rank
slices of all world sizes tile the same global batch.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.data.order import Order

Batch = dict[str, Tensor]


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


class Loader:
    """Endless steps of micro-batches, read ahead by one thread.

    `sample(index, rng)` reads and transforms one sample; `collate(samples)` makes a batch. An error
    in the thread is raised where the batch is asked for.
    """

    def __init__(
        self,
        order: Order,
        sample: Callable[[int, np.random.Generator], Any],
        collate: Callable[[list[Any]], Batch],
        part: Slice,
        cursor: int = 0,
        prefetch: int = 2,
    ):
        self._order, self._sample, self._collate, self._part = order, sample, collate, part
        self._queue: queue.Queue[list[Batch] | BaseException] = queue.Queue(
            maxsize=max(1, prefetch)
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(cursor,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread; batches read ahead are dropped (the cursor never counted them)."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _run(self, cursor: int) -> None:
        try:
            while not self._stop.is_set():
                step = [self._batch(p) for p in self._part.positions(cursor)]
                self._put(step)
                cursor += self._part.global_batch
        except BaseException as error:  # handed to the consumer, which raises it
            self._put(error)

    def _batch(self, positions: np.ndarray) -> Batch:
        indices = self._order.samples(positions)
        return self._collate(
            [
                self._sample(int(i), self._order.rng(int(p)))
                for i, p in zip(indices, positions, strict=True)
            ]
        )

    def _put(self, item: "list[Batch] | BaseException") -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
