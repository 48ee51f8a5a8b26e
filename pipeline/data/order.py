"""The order of samples: a pure function of (seed, position), with no memory and no start-up cost.

Position p of the endless stream lies in epoch p // N at place p % N; within an epoch the places are
a pseudo-random permutation of the N samples, computed place by place: a Feistel network (Luby and
Rackoff 1988) over the smallest even-bit domain that holds N, walked until it lands inside N (Black
and Rogaway 2002, "cycle walking"). The domain is less than 4 N, so fewer than 4 steps on average.

With a window of W samples the permutation has two levels, for storage that is slow at random places:
windows of W neighbours come in random order, and so do the samples inside each. At any moment a run
then reads from one stretch of W neighbours (of a shard or a few), and still sees every sample once
an epoch.

One integer, the number of samples consumed, is the whole state of a loader. Any number of ranks
and any batch size read the same stream: nothing lost, nothing repeated.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shards.mixing import GOLDEN, mix

NUM_ROUNDS = 8
_WINDOWS, _INSIDE, _STAND_IN = 1, 2, 3


class Stream(Protocol):
    """An endless stream of samples by position."""

    def __len__(self) -> int:
        """How many different samples there are."""
        ...

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """Data-set indices at the positions of the stream: int64 [K] -> int64 [K]."""
        ...

    def rng(self, position: int) -> np.random.Generator:
        """The generator from which everything random about this position is drawn."""
        ...

    def replacement(self, position: int, attempt: int) -> int:
        """Who stands in at `position` when its sample is damaged; a pure function of both."""
        ...


def permute(places: np.ndarray, num_samples: int, key: int) -> np.ndarray:
    """Image of each place under the permutation of `range(num_samples)` that `key` names.

    Args:
        places: int64 array, each in [0, num_samples).
        num_samples: size of the permuted set, at least 1.
        key: any integer; different keys give unrelated permutations.

    Returns:
        int64 array of the same shape, a bijection of `range(num_samples)` over all places.
    """
    return _walk(places, num_samples, key, backwards=False)


def unpermute(images: np.ndarray, num_samples: int, key: int) -> np.ndarray:
    """The inverse of `permute`."""
    return _walk(images, num_samples, key, backwards=True)


def _walk(places: np.ndarray, num_samples: int, key: int, *, backwards: bool) -> np.ndarray:
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
            if backwards:
                for round_key in round_keys[::-1]:
                    left, right = right ^ (mix(left + round_key) & low), left
            else:
                for round_key in round_keys:
                    left, right = right, left ^ (mix(right + round_key) & low)
            x[outside] = (left << half_bits) | right
            outside = x >= np.uint64(num_samples)
    return x.astype(np.int64)


class Order:
    """The endless stream of one selection of samples.

    `indices` are the data-set indices that passed the filter, ascending: a range where they are one
    run (a whole split), which costs no memory, or an array. `seed` names the stream. `window` is the
    number of neighbours that come together; 0 is one permutation over all. Raises ValueError for an
    empty selection.
    """

    def __init__(self, indices: Sequence[int] | np.ndarray, seed: int, window: int = 0):
        if len(indices) == 0:
            raise ValueError("the selection is empty: no sample passes the filter")
        self.indices = _as_run(np.asarray(indices)) if not isinstance(indices, range) else indices
        self.seed = seed
        self.window = window if 0 < window < len(indices) else 0

    def __len__(self) -> int:
        """Samples per epoch."""
        return len(self.indices)

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """Data-set indices at the positions of the stream: int64 [K] -> int64 [K]."""
        epochs, places = np.divmod(positions, len(self))
        result = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._look_up(self._permute(places[chosen], self._key(int(epoch))))
        return result

    def rng(self, position: int) -> np.random.Generator:
        """The generator from which everything random about this position is drawn."""
        return np.random.Generator(np.random.Philox(key=[self.seed, position]))

    def replacement(self, position: int, attempt: int) -> int:
        """A sample drawn for (position, attempt), whoever asks and however often."""
        drawn = _sub_key(self.seed, _STAND_IN, position, attempt) % len(self)
        return int(self._look_up(np.array([drawn]))[0])

    def _key(self, epoch: int) -> int:
        return (self.seed << 32) ^ epoch

    def _look_up(self, ranks: np.ndarray) -> np.ndarray:
        if isinstance(self.indices, range):
            return ranks + self.indices.start
        return self.indices[ranks].astype(np.int64)

    def _permute(self, places: np.ndarray, key: int) -> np.ndarray:
        if not self.window:
            return permute(places, len(self), key)
        size, num = self.window, -(-len(self) // self.window)
        # The last window may be short. It comes at a random turn like the others, and the places
        # behind its turn lie that much earlier.
        short = len(self) - (num - 1) * size
        window_key = _sub_key(key, _WINDOWS)
        turn_of_short = int(unpermute(np.array([num - 1]), num, window_key)[0])
        behind = places >= turn_of_short * size + short
        turns = np.where(behind, (places - short) // size + 1, places // size)
        starts = np.where(turns > turn_of_short, turns * size - size + short, turns * size)
        windows = permute(turns, num, window_key)
        result = np.empty_like(places)
        for window in np.unique(windows):
            chosen = windows == window
            length = short if window == num - 1 else size
            inside = permute((places - starts)[chosen], length, _sub_key(key, _INSIDE, int(window)))
            result[chosen] = window * size + inside
        return result


def _sub_key(key: int, *numbers: int) -> int:
    """An unrelated key for a part of the stream."""
    state = np.array([key & 0xFFFFFFFFFFFFFFFF], np.uint64)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = mix(state * GOLDEN + np.uint64(number + 1))
    return int(state[0])


def _as_run(indices: np.ndarray) -> np.ndarray | range:
    """The same indices as a range where they are one run, else in as few bytes as hold them."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first == len(indices) - 1 and bool((np.diff(indices) == 1).all()):
        return range(first, last + 1)
    return indices.astype(np.uint32) if 0 <= first <= last < 1 << 32 else indices
