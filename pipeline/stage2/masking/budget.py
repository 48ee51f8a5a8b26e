"""Whole tokens out of fractions."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

Fit = Callable[[list[int], int], list[int]]
"""(capacity per stream, tokens to share out) -> tokens per stream, none above its capacity."""

# Weights that small are made larger: quotients by them would overflow.
_NOTHING = 1e-280


class Shares(Protocol):
    """How the tokens of a sample are shared out over streams, drawn for each sample anew."""

    def __call__(self, rng: np.random.Generator, capacity: list[int]) -> Fit: ...


def fit_budget(weights: Sequence[float], capacity: list[int], total: int) -> list[int]:
    """Share `total` tokens out over streams in proportion to `weights`.

    Never more than a stream's `capacity`; what one cannot take the others get, so that the sum is
    exactly min(total, sum(capacity)). Streams of weight 0 get something only when all others are full.
    """
    budget = [0] * len(capacity)
    open_ = [i for i, room in enumerate(capacity) if room]
    left = min(total, sum(capacity))
    while left:
        norm = sum([weights[i] for i in open_])
        if norm < _NOTHING:
            weights = [w / norm if norm else 1.0 for w in weights]
            norm = sum([weights[i] for i in open_])
        scale = left / norm
        full = [i for i in open_ if weights[i] * scale >= capacity[i]]
        if not full:
            break
        for i in full:
            budget[i] = capacity[i]
            left -= capacity[i]
        open_ = [i for i in open_ if not budget[i]]
    if left:
        remainders = {}
        for i in open_:
            share = weights[i] * scale
            budget[i] = whole = int(share)
            remainders[i] = share - whole
            left -= whole
        # Rounding down loses a token here and there: to the largest remainders.
        for i in sorted(open_, key=remainders.__getitem__, reverse=True)[:left]:
            budget[i] += 1
    return budget


def proportional(rng: np.random.Generator, capacity: list[int]) -> Fit:
    """Shares without chance: as many tokens of each stream as it has, in proportion."""
    return lambda capacity, total: fit_budget(capacity, capacity, total)
