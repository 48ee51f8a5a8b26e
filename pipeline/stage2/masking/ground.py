"""Places on the ground that all maps of a sample share, whatever their grids.

The window is cut into the cells of its coarsest map: the *places*. Hidden places are hidden in every
map: a token is *visible* when it touches no hidden place, and *inside* when its middle lies in one. A
token of a grid that does not nest in the places can be neither.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from configs import ConfigError
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.places import RANKS
from pipeline.stage2.masking.selection import Present

_INSIDE_OR_NOT = RANKS[[0, 2]]


class Part(NamedTuple):
    """One map: the rank of each token, 0 visible, 1 neither, 2 inside, out of `RANKS`; counts."""

    ranks: np.ndarray
    num_visible: int
    num_inside: int


Hidden = dict[int, Part]
"""What hidden places make of the maps of a sample, by stream."""


@dataclass(frozen=True)
class _Cells:
    """Tokens of one grid on the places of another.

    `corners`: places touched by a token, [4, N], or [N] where each lies in one; `middle`: [N].
    """

    corners: np.ndarray
    middle: np.ndarray

    @classmethod
    def make(cls, own: int, side: int) -> "_Cells":
        k = np.arange(own)
        first, last = k * side // own, ((k + 1) * side - 1) // own
        half = (2 * k + 1) * side // (2 * own)

        def cells(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return (rows[:, None] * side + columns).reshape(-1)

        middle = cells(half, half)
        if (first == last).all():
            return cls(middle, middle)
        return cls(np.stack([cells(a, b) for a in (first, last) for b in (first, last)]), middle)


def places_on_ground(layout: Layout) -> dict[int, int]:
    """Streams whose tokens have a place, with the number of rows (and columns) of their grids."""
    return {i: s.grid[0] for i, s in enumerate(layout.streams) if s.grid and s.grid[0] > 1}


class Ground:
    """The maps of a layout on the ground they share.

    A map of a single cell sees the whole window and has no place. Raises ConfigError when no other is
    there.
    """

    def __init__(self, layout: Layout):
        self._sides = places_on_ground(layout)
        if not self._sides:
            raise ConfigError(
                "block and tube masking hide places on the ground, and no map here has more than one; "
                "take them out of masked.masking"
            )
        sides = sorted(set(self._sides.values()))
        self._cells = {(own, a): _Cells.make(own, a) for a in sides for own in sides if own >= a}

    def side(self, present: Present) -> int:
        """Number of rows (and columns) of places; 0 when the sample has no map that has places."""
        available = present.available
        return min((s for i, s in self._sides.items() if available[i]), default=0)

    def hide(self, hidden: np.ndarray, present: Present) -> Hidden:
        """What hiding these places, bool [side, side], makes of each token."""
        there = {i: own for i, own in self._sides.items() if present.available[i]}
        parts = {own: self._part(own, hidden, strict=True) for own in set(there.values())}
        readable = {own for i, own in there.items() if present.readable[i]}
        if readable and not any(parts[own].num_visible for own in readable):
            # The places are those of a target that no input nests in: middles must do.
            parts = {own: self._part(own, hidden, strict=False) for own in parts}
        return {i: parts[own] for i, own in there.items()}

    def _part(self, own: int, hidden: np.ndarray, *, strict: bool) -> Part:
        cells, flat = self._cells[own, len(hidden)], hidden.reshape(-1)
        inside = flat.take(cells.middle)
        num_inside = int(np.count_nonzero(inside))
        if cells.corners is cells.middle or not strict:
            return Part(_INSIDE_OR_NOT.take(inside), own * own - num_inside, num_inside)
        near = flat.take(cells.corners).any(axis=0)
        ranks = RANKS.take(np.add(near, inside, dtype=np.intp))
        return Part(ranks, own * own - int(np.count_nonzero(near)), num_inside)
