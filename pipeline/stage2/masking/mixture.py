"""Several strategies, one of them for each sample."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.selection import Present, Selection, Strategy


class Mixture:
    """`mixture(rng, available)`: inputs and targets among the available tokens of each stream, [M].

    A strategy is drawn with chances in proportion to the weights.
    """

    def __init__(self, layout: Layout, strategies: list[Strategy], weights: list[float]):
        self._strategies, self._ends = strategies, list(accumulate(weights))
        self._is_input = [s.is_input for s in layout.streams]

    def __call__(self, rng: np.random.Generator, available: np.ndarray) -> Selection:
        counts = available.tolist()
        readable = [n if i else 0 for n, i in zip(counts, self._is_input, strict=True)]
        which = 0
        if len(self._strategies) > 1:
            which = bisect_right(self._ends, rng.random() * self._ends[-1])
        return self._strategies[which](rng, Present(counts, readable))
