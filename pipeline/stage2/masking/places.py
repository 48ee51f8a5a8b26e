"""Random places in maps and sets, for all streams of a sample in one sort.

A token's key is (stream, rank, 34 random bits, place), the highest first. Sorted keys hold each stream's
places in random order, those of lower rank before those of higher: inputs are taken from the front,
targets from the back. No two keys are equal, so all machines sort them alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.stage2.layout import Layout

_PLACE_BITS, _RANDOM_BITS, _RANK_BITS = 20, 34, 2
_PLACE = np.uint64((1 << _PLACE_BITS) - 1)
_CUT = np.uint64(64 - _RANDOM_BITS)
_RANDOM_UP = np.uint64(_PLACE_BITS)
_STREAM_UP = np.uint64(_PLACE_BITS + _RANDOM_BITS + _RANK_BITS)

RANKS = np.arange(1 << _RANK_BITS, dtype=np.uint64) << np.uint64(_PLACE_BITS + _RANDOM_BITS)
"""Ranks of tokens as they stand in keys."""


class Places:
    """The places of all streams of a layout."""

    def __init__(self, layout: Layout):
        self._base = [
            np.uint64(i) << _STREAM_UP | np.arange(s.num_positions, dtype=np.uint64)
            for i, s in enumerate(layout.streams)
        ]

    def shuffled(
        self, rng: np.random.Generator, streams: Sequence[int], ranks: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """All places of each stream, one stream after the other, int64 [N].

        `streams` ascend. `ranks`, of some of them, have one of `RANKS` per place.
        """
        if not streams:
            return np.zeros(0, dtype=np.int64)
        base = np.concatenate([self._base[i] for i in streams])
        keys = rng.bit_generator.random_raw(len(base))
        keys >>= _CUT
        keys <<= _RANDOM_UP
        keys |= base
        if ranks:
            at = 0
            for i in streams:
                stop = at + len(self._base[i])
                if i in ranks:
                    keys[at:stop] |= ranks[i]
                at = stop
        keys.sort()
        keys &= _PLACE
        return keys.view(np.int64)
