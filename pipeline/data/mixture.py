"""Several streams as one, in given proportions, still a pure function of the position.

A period of T positions is dealt out once, each position to the stream that lacks most of its share
so far (the schedule with the smallest discrepancy, Tijdeman 1980). Position p then is position
(p // T) * n + k of its stream, where n is that stream's part of a period and k counts its positions
before p in the period. Every stream goes through its own epochs at its own pace; none is skipped,
none is repeated early, and one integer is still the whole state.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.data.order import Stream

PERIOD = 4096
"""Positions dealt out at a time: shares are kept to 1 / 4096."""


class Mixture:
    """A stream of streams. `weights` are shares of the positions, in any unit.

    Raises ValueError for weights that are not positive.
    """

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float]):
        if min(weights) <= 0:
            raise ValueError(f"weights must be positive, got {tuple(weights)}")
        self.streams = tuple(streams)
        self._turns = deal(weights)
        hot = self._turns == np.arange(len(streams))[:, None]
        # [S, T]: how many positions of the period before t belong to stream s
        self._before = np.cumsum(hot, axis=1) - hot
        self._counts = hot.sum(axis=1)

    def __len__(self) -> int:
        return sum(map(len, self.streams))

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which stream each position belongs to, and its position there: two int64 [K]."""
        periods, places = np.divmod(positions, PERIOD)
        who = self._turns[places]
        return who, periods * self._counts[who] + self._before[who, places]

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """Data-set indices at the positions of the stream: int64 [K] -> int64 [K]."""
        who, inner = self.split(positions)
        result = np.empty_like(inner)
        for s, stream in enumerate(self.streams):
            result[who == s] = stream.samples(inner[who == s])
        return result

    def rng(self, position: int) -> np.random.Generator:
        """The generator from which everything random about this position is drawn."""
        return self.streams[0].rng(position)

    def replacement(self, position: int, attempt: int) -> int:
        """Another sample of the stream whose turn it is."""
        who, inner = self.split(np.array([position]))
        return self.streams[int(who[0])].replacement(int(inner[0]), attempt)


def deal(weights: Sequence[float]) -> np.ndarray:
    """Whose turn each position of a period is: int64 [PERIOD]; everyone has at least one."""
    shares = np.asarray(weights, float) / sum(weights)
    counts = np.maximum(1, np.floor(shares * PERIOD).astype(np.int64))
    while counts.sum() > PERIOD:
        counts[np.argmax(counts)] -= 1
    # Largest remainders take what rounding left over.
    for s in np.argsort(counts - shares * PERIOD, kind="stable")[: PERIOD - int(counts.sum())]:
        counts[s] += 1
    shares = counts / PERIOD
    turns = np.empty(PERIOD, np.int64)
    given = np.zeros(len(shares))
    for t in range(PERIOD):
        lacking = np.where(given < counts, shares * (t + 1) - given, -np.inf)
        turns[t] = np.argmax(lacking)
        given[turns[t]] += 1
    return turns
