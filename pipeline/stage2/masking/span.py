"""Sequences with sentinels: spans are taken out, and are asked for (Raffel et al. 2020, T5, section 3.1.4).

    text      a b c d e f      dropped: b c, e
    input     a 0 d 1 f        a sentinel stands for each span
    target    b c 1 e 2        the decoder is given 0 first; the last sentinel says that the text goes on

The share of tokens that stay is uniform on [0, 1] (4M). A text that is dropped whole has one sentinel for
its input and all its tokens for a target: it is written. Positions count the tokens of input and target as
they stand here, so that they do not tell how long a span is.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


class Spans:
    """A text without some of its tokens. Sentinel j is place -1 - j.

    `inputs`: places of the input. `num_targets`: tokens to predict, which are all that were dropped and
    all sentinels but the one that is given.
    """

    def __init__(self, dropped: Sequence[bool]):
        self.inputs: list[int] = []
        self._targets: list[int] = []
        self._starts: list[int] = []
        lost_before = False
        for place, lost in enumerate(dropped):
            if lost:
                if not lost_before:
                    sentinel = -1 - len(self._starts)
                    self._starts.append(len(self._targets))
                    self._targets.append(sentinel)
                    self.inputs.append(sentinel)
                self._targets.append(place)
            else:
                self.inputs.append(place)
            lost_before = lost
        if self._starts and not lost_before:
            self._targets.append(-1 - len(self._starts))
        self.num_targets = max(0, len(self._targets) - 1)

    def targets(self, rng: np.random.Generator, num: int) -> tuple[list[int], int]:
        """`num` places to predict, of at most `num_targets`, and the sentinel before them.

        Where not all are wanted, they start behind a random sentinel that has enough after it.
        """
        sentinel = 0
        if num < self.num_targets:
            far_enough = [at for at in self._starts if at + num <= self.num_targets]
            sentinel = int(rng.random() * len(far_enough))
        start = self._starts[sentinel] + 1
        return self._targets[start : start + num], sentinel


def drop_spans(
    rng: np.random.Generator, length: int, budget: int, some: bool = False
) -> list[bool]:
    """Which tokens of a text to drop, for an input of at most `budget` >= 1 tokens with its sentinels.

    `some`: at least one is dropped even where chance and budget would keep all.
    """
    keep, *chance = rng.random(length + 1).tolist()
    dropped = [c >= keep for c in chance]
    kept = length - sum(dropped)
    if kept < length:
        # Every dropped token is a sentinel, but for those that follow another.
        num_inputs = length - sum([a and b for a, b in pairwise(dropped)])
        fits = num_inputs <= budget
    else:
        num_inputs, fits = length, length <= budget and not some
    if fits:
        return dropped
    order = sorted([i for i in range(length) if not dropped[i]], key=chance.__getitem__)
    while order and (num_inputs > budget or kept == length):
        # A token between spans joins them: its own place goes, and a sentinel with it.
        i = order.pop()
        num_inputs -= (i > 0 and dropped[i - 1]) + (i + 1 < length and dropped[i + 1])
        dropped[i] = True
        kept -= 1
    return dropped
