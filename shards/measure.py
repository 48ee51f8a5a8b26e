"""How fast this data set comes from this disk: what a training run may expect, beside the disk's limit.

    python -m shards bench DIR

Every way of reading gets the same samples. The limit reads the same bytes with plain `preadv` and
throws them away; the rest check digests and decode.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from shards.dataset import Dataset
from shards.errors import ShardError
from shards.storage import is_url, open_tar
from shards.tar import BLOCK_BYTES

_ROUNDS = 3
_MAX_OPEN_FILES = 64


def measure(
    dataset: Dataset, names: Sequence[str], num: int, threads: int, *, cold: bool = False
) -> list[dict[str, Any]]:
    """Samples/s, MB/s and CPU ms per sample of each way of reading; medians of three rounds.

    `cold` asks the system to forget the files before each round. Raises ShardError when no sample
    has any of the modalities.
    """
    chosen = np.flatnonzero(np.any([dataset.present(name) for name in names], axis=0))
    if not len(chosen):
        raise ShardError(f"{dataset.path}: no sample has {', '.join(names)}")
    first = chosen[:num].tolist()
    scattered = np.random.default_rng(0).permutation(chosen)[:num].tolist()

    def read(i: int) -> int:
        return sum(
            p.nbytes if isinstance(p, np.ndarray) else len(p)
            for p in dataset.read(i, names).values()
        )

    def in_threads(samples: list[int]) -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(read, samples))

    ways: dict[str, tuple[list[int], Callable[[list[int]], int]]] = {
        "limit: bytes only, in order": (first, lambda s: _raw(dataset, s, names)),
        "limit: bytes only, random": (scattered, lambda s: _raw(dataset, s, names)),
        "read, in order": (first, lambda s: sum(map(read, s))),
        "read, random": (scattered, lambda s: sum(map(read, s))),
        f"read, random, {threads} threads": (scattered, in_threads),
    }
    rounds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, (samples, way) in ways.items():
            if cold:
                forget(dataset.tars(names))
            begin, cpu = time.perf_counter(), time.process_time()
            num_bytes = way(samples)
            rounds[name].append((time.perf_counter() - begin, time.process_time() - cpu, num_bytes))
    return [_row(name, len(ways[name][0]), taken) for name, taken in rounds.items()]


def forget(tars: Sequence[str]) -> None:
    """Ask the system to drop tars of this machine from its cache."""
    for tar in tars:
        if is_url(tar):
            continue
        fd = os.open(tar, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _row(name: str, num: int, taken: list[tuple[float, float, int]]) -> dict[str, Any]:
    seconds = statistics.median(s for s, _, _ in taken)
    return {
        "way": name,
        "samples_per_s": round(num / seconds, 1),
        "mb_per_s": round(taken[0][2] / seconds / 1e6, 1),
        "cpu_ms": round(1000 * statistics.median(c for _, c, _ in taken) / num, 3),
    }


def _raw(dataset: Dataset, samples: list[int], names: Sequence[str]) -> int:
    """Read the stored bytes of the parts, one call each; how many that were."""
    total = 0
    opened = functools.lru_cache(maxsize=_MAX_OPEN_FILES)(open_tar)
    buffer = memoryview(bytearray(0))
    for i in samples:
        for tar, block, size in dataset.extents(i, names):
            if len(buffer) < size:
                buffer = memoryview(bytearray(size))
            total += opened(tar).read_into([buffer[:size]], block * BLOCK_BYTES)
    return total
