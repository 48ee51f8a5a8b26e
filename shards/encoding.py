"""Samples to the bytes of their members and their sums, on as many threads as this process may use.

    add(sample) -> encode, count in a thread ... -> results in the order they were added

Compression and counting take most of a build's time and do not hold Python's lock, so meanwhile the
next samples are read and the last ones written. What comes out does not depend on the number of
threads.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from configs.schema.modality import Modality
from shards.codec import META_PART, Payload, encode_meta, encode_part, part_name
from shards.errors import SampleError
from shards.sample import Sample
from shards.stats import Statistics

_MAX_THREADS = 8
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE")

Members = dict[str, Payload]


@dataclass(frozen=True)
class Encoded:
    """A sample, its members by part name, and the sums of its pixels; or why it has none."""

    sample: Sample
    members: Members
    sums: dict[str, Any]
    error: SampleError | None = None


def encode_sample(sample: Sample, rows: Mapping[str, Modality]) -> Members:
    """All members of a sample by part name. Raises SampleError for a part too large."""
    members: Members = {META_PART: (encode_meta(sample.meta),)}
    for name, part in sample.parts.items():
        members[part_name(rows[name])] = encode_part(part, rows[name])
    return members


class Encoder:
    """Encodes samples ahead of their writer. Use as a context manager.

    `threads` 0 takes this process's share of the cores of its machine. `counts` says whether the sums
    for the statistics are wanted.
    """

    def __init__(
        self, rows: Mapping[str, Modality], threads: int = 0, *, counts: bool = True
    ) -> None:
        self._rows = rows
        self._counts = counts
        self._threads = threads or own_threads()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._waiting: deque[Future[Encoded]] = deque()

    def add(self, sample: Sample) -> Iterator[Encoded]:
        """Take a sample; gives those that are due."""
        if self._pool is None:
            yield self._encode(sample)
            return
        self._waiting.append(self._pool.submit(self._encode, sample))
        while len(self._waiting) > 2 * self._threads:
            yield self._waiting.popleft().result()

    def drain(self) -> Iterator[Encoded]:
        """The rest."""
        while self._waiting:
            yield self._waiting.popleft().result()

    def _encode(self, sample: Sample) -> Encoded:
        try:
            members = encode_sample(sample, self._rows)
        except SampleError as error:
            return Encoded(sample, {}, {}, error)
        if not self._counts:
            return Encoded(sample, members, {})
        statistics = Statistics(self._rows)
        statistics.add(sample.parts)
        return Encoded(sample, members, statistics.dump())

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
