"""Sequences without sentinels: each is read from its beginning or written from it, never both."""

import numpy as np


def assign_roles(
    rng: np.random.Generator, sequences: tuple[int, ...], seen: list[int], asked: list[int]
) -> None:
    """Make each of `sequences` that could be both either input or target, by a coin.

    Changes the capacities `seen` and `asked` in place. Coins are overruled where all of them would
    leave nothing to ask for, or nothing to see although there is enough for both.
    """
    both = [i for i in sequences if seen[i] and asked[i]]
    if not both:
        return
    coins = rng.random(len(both)).tolist()
    written = {i for i, coin in zip(both, coins, strict=True) if coin < 0.5}
    if not 0 < len(written) < len(both):
        others = [i for i in range(len(seen)) if i not in both]
        others_asked = any(asked[i] for i in others)
        if not written and not others_asked:
            written = {both[coins.index(min(coins))]}
        elif written and (others_asked or len(both) > 1) and not any(seen[i] for i in others):
            written.remove(both[coins.index(max(coins))])
    for i in both:
        if i in written:
            seen[i] = 0
        else:
            asked[i] = 0
