"""Held-out values on a fixed set of samples, shared out over the ranks."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.data.selection import readable
from pipeline.engine.base import Engine
from pipeline.engine.distributed import World, to_device
from pipeline.engine.errors import RunError
from pipeline.engine.metrics import Window
from pipeline.engine.objective import Objective


@torch.no_grad()
def evaluate(
    objective: Objective,
    engine: Engine,
    world: World,
    num_samples: int,
    batch_size: int,
    progress: Callable[[], None],
) -> dict[str, float]:
    """The objective's held-out values; empty where nothing is held out. All ranks must call it.

    `progress` is called before each batch.
    """
    indices = spread(objective.eval_indices, num_samples)
    if not len(indices):
        return {}
    window = Window()
    engine.model.eval()
    # Under ZeRO-3 every forward pass is a collective: all ranks make the same number of them. One
    # that has run out of samples evaluates another's and counts it zero times.
    most = -(-len(indices) // world.size)
    mine = indices[world.rank :: world.size]
    for start in range(0, most, batch_size):
        progress()
        chunk = mine[start : start + batch_size]
        weight = 1 if len(chunk) else 0
        samples = [_sample(objective, int(i), indices) for i in (chunk if weight else indices[:1])]
        batch = to_device(objective.collate(samples), world.device)
        sums = engine.model(batch, evaluate=True).sums
        window.add({name: weight * value for name, value in sums.items()})
    engine.model.train()
    return objective.summarise(world.sum(window.sums))


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spread and always the same."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(int)]


def _sample(objective: Objective, index: int, others: np.ndarray) -> Any:
    """The sample, or the first of the others that is not damaged."""

    def read(i: int) -> Any:
        return objective.eval_sample(i, np.random.default_rng(i))

    found = next(readable(itertools.chain([index], others), read), None)
    if found is None:
        raise RunError(
            "no held-out sample can be read; look at the data with `python -m shards verify`"
        )
    return found
