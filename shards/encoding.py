"""Samples to the bytes of their members, on as many threads as this process may use.

    add(sample) -> encode in a thread ... -> results in the order they were added

Compression takes most of a build's time and does not hold Python's lock, so while threads compress,
the next samples are read and the last ones written. Bytes do not depend on the number of threads.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from configs.schema.modality import Modality
from shards.codec import META_PART, Payload, encode_meta, encode_part, part_name
from shards.errors import SampleError
from shards.sample import Sample

_MAX_THREADS = 8
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE")

Members = dict[str, Payload]


def encode_sample(sample: Sample, rows: Mapping[str, Modality]) -> Members:
    """All members of a sample by part name. Raises SampleError for a part too large."""
    members: Members = {META_PART: (encode_meta(sample.meta),)}
    for name, part in sample.parts.items():
        members[part_name(rows[name])] = encode_part(part, rows[name])
    return members


class Encoder:
    """Encodes samples ahead of their writer. Use as a context manager.

    `threads` 0 takes this process's share of the cores of its machine.
    """

    def __init__(self, rows: Mapping[str, Modality], threads: int = 0) -> None:
        self._rows = rows
        self._threads = threads or own_threads()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._waiting: deque[tuple[Sample, Future[Members] | None]] = deque()

    def add(self, sample: Sample) -> Iterator[tuple[Sample, Members | SampleError]]:
        """Take a sample; gives those that are due, each with its members or why it has none."""
        future = self._pool.submit(encode_sample, sample, self._rows) if self._pool else None
        self._waiting.append((sample, future))
        while len(self._waiting) > (2 * self._threads if self._pool else 0):
            yield self._next()

    def drain(self) -> Iterator[tuple[Sample, Members | SampleError]]:
        """The rest."""
        while self._waiting:
            yield self._next()

    def _next(self) -> tuple[Sample, Members | SampleError]:
        sample, future = self._waiting.popleft()
        try:
            return sample, future.result() if future else encode_sample(sample, self._rows)
        except SampleError as error:
            return sample, error

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def own_threads() -> int:
    """This process's share of the cores it may run on, among the MPI ranks of its machine."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    ranks = max(int(os.environ.get(name, 1)) for name in _LOCAL_RANKS)
    return max(1, min(_MAX_THREADS, cores // ranks))
