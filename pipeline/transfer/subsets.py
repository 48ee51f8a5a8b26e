"""Few labels: nested, stratified subsets of the training samples, drawn by a seed."""

import numpy as np


def priority(strata: np.ndarray, seed: int) -> np.ndarray:
    """All samples in an order of which every beginning has the strata in their shares: int64 [N].

    Within its stratum each sample has a random place; places count in shares of the stratum's size.
    """
    rng = np.random.default_rng([seed, len(strata)])
    share = np.empty(len(strata))
    for value in np.unique(strata):
        mine = rng.permutation(np.flatnonzero(strata == value))
        share[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(share, kind="stable")


def fraction(strata: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Places of `share` of the samples, at least one: ascending; smaller shares lie within larger ones."""
    count = max(1, round(share * len(strata)))
    return np.sort(priority(strata, seed)[:count])


def shots(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of `count` samples per stratum, all where it has fewer: ascending, and nested."""
    order = priority(strata, seed)
    chosen = [order[strata[order] == value][:count] for value in np.unique(strata)]
    return np.sort(np.concatenate(chosen))
