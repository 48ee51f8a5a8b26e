"""Threads or processes: how samples are best read ahead, measured on a data set.

    python benchmarks/readers.py DIR [--modalities S2L2A,DEM] [--batch 16] [--steps 40] [--workers 1,2,4]

The same samples in the same order through the training loader with N reading threads, and through
torch's DataLoader with N worker processes, the usual way. Both read, check digests, normalise and
collate; medians of interleaved rounds. The start of the processes is not counted.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.data.loader import Loader, Slice  # noqa: E402
from pipeline.data.order import Order  # noqa: E402
from pipeline.data.transforms import Normaliser  # noqa: E402
from shards import Dataset, open_dataset  # noqa: E402

_ROUNDS = 5
_WARM_STEPS = 4


class Samples(torch.utils.data.Dataset):
    """Read and normalise, as an objective's `sample` does."""

    def __init__(self, dataset: Dataset, names: list[str]):
        self.dataset, self.names = dataset, names
        self.normalisers = {
            n: Normaliser(dataset.modalities[n], dataset.statistics[n]) for n in names
        }

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        parts = self.dataset.read(int(i), self.names)
        return {n: self.normalisers[n].forward(np.asarray(p))[0] for n, p in parts.items()}

    def sample(self, i: int, _: np.random.Generator, __: int) -> dict[str, np.ndarray]:
        return self[i]


def collate(samples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(np.stack([s[n] for s in samples])) for n in samples[0]}


def by_threads(samples: Samples, indices: np.ndarray, batch: int, workers: int) -> Iterator[Any]:
    part = Slice(batch, 0, 0, 1)
    loader = Loader(Order(indices, 0), samples.sample, collate, part, readers=workers)
    try:
        yield from loader
    finally:
        loader.close()


def by_processes(samples: Samples, indices: np.ndarray, batch: int, workers: int) -> Iterator[Any]:
    order = Order(indices, 0)

    def endless() -> Iterator[list[int]]:
        for cursor in itertools.count(0, batch):
            yield order.samples(np.arange(cursor, cursor + batch)).tolist()

    yield from torch.utils.data.DataLoader(
        samples, batch_sampler=endless(), num_workers=workers, collate_fn=collate
    )


def rate(batches: Iterator[Any], batch: int, steps: int) -> float:
    """Samples per second over `steps` batches, after a few for warming up."""
    for _ in itertools.islice(batches, _WARM_STEPS):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return batch * steps / (time.perf_counter() - begin)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--modalities", default="S2L2A,DEM")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", default="1,2,4")
    arguments = parser.parse_args()
    # Workers share the cores with nobody here; in training the model takes its own.
    torch.set_num_threads(1)
    dataset = open_dataset(arguments.folder)
    names = arguments.modalities.split(",")
    indices = dataset.select(require=names)
    samples = Samples(dataset, names)
    ways: dict[str, Callable[..., Iterator[Any]]] = {
        "threads": by_threads,
        "processes": by_processes,
    }
    counts = [int(n) for n in arguments.workers.split(",")]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(_ROUNDS):
        for (name, way), workers in itertools.product(ways.items(), counts):
            batches = way(samples, indices, arguments.batch, workers)
            taken = rate(batches, arguments.batch, arguments.steps)
            batches.close()  # type: ignore[attr-defined]
            found.setdefault((name, workers), []).append(taken)
    print(f"{'workers':>8}  {'threads':>10}  {'processes':>10}  samples/s   threads / processes")
    for workers in counts:
        threads, processes = (statistics.median(found[name, workers]) for name in ways)
        print(
            f"{workers:8}  {threads:10.0f}  {processes:10.0f}  {'':9}   {threads / processes:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
