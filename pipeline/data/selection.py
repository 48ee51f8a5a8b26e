"""Which samples a configuration asks for, and the stream they come in."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from configs.schema import DataConfig
from pipeline.data.mixture import Mixture
from pipeline.data.order import Order, Stream
from shards import DamagedError, MixedDataset, SampleSet

T = TypeVar("T")


def select(
    dataset: SampleSet, config: DataConfig, split: str, require: Iterable[str] = ()
) -> np.ndarray:
    """Samples of a split that pass the configured filter: int64, ascending. Raises ShardError."""
    return dataset.select(split, require, config.filter, config.splitting)


def presence(dataset: SampleSet, name: str) -> np.ndarray:
    """Which samples have a part: bool [N]; none has one that the data set does not know."""
    if name in dataset.modalities or name in dataset.extras:
        return dataset.present(name)
    return np.zeros(dataset.num_samples, dtype=bool)


def make_stream(dataset: SampleSet, indices: np.ndarray, config: DataConfig, seed: int) -> Stream:
    """The endless stream over selected samples: one order, or a mixture by weight.

    Raises ValueError when a member of the mixture has no sample among them.
    """
    if not isinstance(dataset, MixedDataset):
        return Order(indices, seed, config.window)
    weights = [config.weight, *(member.weight for member in config.mix)]
    bounds = np.searchsorted(indices, dataset.bounds)
    streams = []
    for m, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        if start == stop:
            name = config.shards if m == 0 else config.mix[m - 1].shards
            raise ValueError(f"no sample of {name} passes the filter; take it out of the mixture")
        # Each member has its own stream of random numbers: seeds that differ in their high bits.
        streams.append(Order(indices[start:stop], seed + (m << 24), config.window))
    return Mixture(streams, weights)


def readable(indices: Iterable[int], read: Callable[[int], T]) -> Iterator[T]:
    """What `read` makes of the samples, damaged ones left out."""
    for index in indices:
        try:
            found = read(int(index))
        except DamagedError:
            continue
        yield found
