"""The order of samples: a pure function of (seed, position), with no memory and no start-up cost.

Position p of the endless stream lies in epoch p // N at place p % N; within an epoch the places are
a pseudo-random permutation of the N samples, computed place by place: a Feistel network (Luby and
Rackoff 1988) over the smallest even-bit domain that holds N, walked until it lands inside N (Black
and Rogaway 2002, "cycle walking"). The domain is less than 4 N, so fewer than 4 steps on average.

One integer, the number of samples consumed, is the whole state of a loader. Any number of ranks
and any batch size read the same stream: nothing lost, nothing repeated.
"""

import numpy as np

from shards.mixing import GOLDEN, mix

NUM_ROUNDS = 8


def permute(places: np.ndarray, num_samples: int, key: int) -> np.ndarray:
    """Image of each place under the permutation of `range(num_samples)` that `key` names.

    Args:
        places: int64 array, each in [0, num_samples).
        num_samples: size of the permuted set, at least 1.
        key: any integer; different keys give unrelated permutations.

    Returns:
        int64 array of the same shape, a bijection of `range(num_samples)` over all places.
    """
    if num_samples == 1:
        return np.zeros_like(places)
    half_bits = np.uint64(max(1, -(-int(num_samples - 1).bit_length() // 2)))
    low = np.uint64((1 << int(half_bits)) - 1)
    with np.errstate(over="ignore"):
        rounds = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64)
        round_keys = mix(np.uint64(key & 0xFFFFFFFFFFFFFFFF) + rounds * GOLDEN)
        x = places.astype(np.uint64)
        outside = np.ones(x.shape, dtype=bool)
        while outside.any():
            left, right = x[outside] >> half_bits, x[outside] & low
            for round_key in round_keys:
                left, right = right, left ^ (mix(right + round_key) & low)
            x[outside] = (left << half_bits) | right
            outside = x >= np.uint64(num_samples)
    return x.astype(np.int64)


class Order:
    """The endless stream of one selection of samples.

    `indices` are the data-set indices that passed the filter; `seed` names the stream.
    """

    def __init__(self, indices: np.ndarray, seed: int):
        if len(indices) == 0:
            raise ValueError("the selection is empty: no sample passes the filter")
        self.indices = indices
        self.seed = seed

    def __len__(self) -> int:
        """Samples per epoch."""
        return len(self.indices)

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """Data-set indices at the positions of the stream: int64 [K] -> int64 [K]."""
        epochs, places = np.divmod(positions, len(self.indices))
        result = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            key = (self.seed << 32) ^ int(epoch)
            result[chosen] = self.indices[permute(places[chosen], len(self.indices), key)]
        return result

    def rng(self, position: int) -> np.random.Generator:
        """The generator from which everything random about this position is drawn."""
        return np.random.Generator(np.random.Philox(key=[self.seed, position]))
