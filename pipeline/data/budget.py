"""How many tokens each of several streams gives: shares by chance, whole tokens out of them."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
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


def dirichlet_weights(
    rng: np.random.Generator,
    capacity: Sequence[int],
    alpha: float,
    own: Mapping[int, float] | None = None,
) -> list[float]:
    """Weights of the streams that have tokens, as a Dirichlet draw before it is divided by its sum.

    `own` has the alphas of streams for which `alpha` is not meant; 0: no share. Small alphas give nearly
    everything to one stream, large ones spread it (4M, Mizrahi et al. 2023, section 3.2).
    """
    # Gamma variables over their sum are Dirichlet (Devroye 1986, XI.4), over any subset too: those of
    # absent streams need not be drawn.
    open_ = [i for i, room in enumerate(capacity) if room]
    own = own or {}
    weights = [0.0] * len(capacity)
    for i, weight in zip(open_, rng.standard_gamma(alpha, len(open_)).tolist(), strict=True):
        weights[i] = weight
    for i, mine in own.items():
        weights[i] = rng.standard_gamma(mine) if capacity[i] else 0.0
    if open_ and not any(weights):
        # All have underflown. What a draw tends to as alphas vanish: everything to one stream.
        ends = list(accumulate(own.get(i, alpha) for i in open_))
        if ends[-1] > 0:
            weights[open_[bisect_right(ends, rng.random() * ends[-1])]] = 1.0
    return weights


def proportional(rng: np.random.Generator, capacity: list[int]) -> Fit:
    """Shares without chance: as many tokens of each stream as it has, in proportion."""
    return lambda capacity, total: fit_budget(capacity, capacity, total)
