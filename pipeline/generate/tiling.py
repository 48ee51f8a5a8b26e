"""A scene as overlapping windows, and their results as one map, in memory for one row of windows.

Each window's weight falls linearly to its edges over the overlap, so that neighbours blend without a seam
(the weights need not sum to one: sums are divided by the sum of weights).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.data.transforms import GRID_M

# Of a step: sizes such as 256 x 0.3 m are not exact.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Tiling:
    """Windows over a scene: `tops` x `lefts`, all in metres, on whole pixels of every map."""

    window_m: float
    tops: tuple[float, ...]
    lefts: tuple[float, ...]

    @classmethod
    def over(
        cls,
        height_m: float,
        width_m: float,
        window_m: float,
        overlap: float,
        pixels_m: Iterable[float],
    ) -> "Tiling":
        """Windows that cover everything and overlap as asked or more, or by what whole pixels allow.

        They start at multiples of GRID_M or, where those are too far apart, of what `pixels_m`, the sides of
        the pixels of all maps, have in common; the last may reach beyond the scene by less than that. Raises
        ValueError for a scene smaller than a window.
        """
        if min(height_m, width_m) < window_m * (1 - _ROUNDING):
            raise ValueError(
                f"a scene of {height_m:g} x {width_m:g} m is smaller than a window of {window_m:g} m"
            )
        unit, step = _grid(window_m, overlap, pixels_m)
        tops, lefts = (
            _starts((extent - window_m) / float(unit), step, unit) for extent in (height_m, width_m)
        )
        return cls(window_m, tops, lefts)


def _grid(window: float, overlap: float, pixels: Iterable[float]) -> tuple[Fraction, int]:
    """Metres between places where windows may start, and how many of those a window lies from the next."""
    sides = [Fraction(str(side)) for side in pixels]
    scale = math.lcm(*(side.denominator for side in sides))
    common = Fraction(math.lcm(*(int(side * scale) for side in sides)), scale)
    wanted = window * (1 - overlap)
    if wanted > GRID_M * (1 - _ROUNDING) and GRID_M % common == 0:
        return Fraction(GRID_M), max(1, int(wanted // GRID_M))
    if common > window * (1 + _ROUNDING):
        # Pixels that hardly ever begin together: those of the finer maps are then the nearest ones, which
        # takes a pixel of the overlap.
        common = max((side for side in sides if 2 * side <= window), default=min(sides))
        wanted = min(wanted, window - float(common))
    return common, max(1, math.floor(wanted / float(common) + _ROUNDING))


def _starts(room: float, step: int, unit: Fraction) -> tuple[float, ...]:
    """Starts in metres along a side with `room`, counted in units, beside a window."""
    last = max(0, math.ceil(room - _ROUNDING))
    found = [number * unit for number in (*range(0, last, step), last)]
    return tuple(int(x) if x.denominator == 1 else float(x) for x in found)


def ramp(size: int, overlap: int) -> np.ndarray:
    """Weights [size, size], 1 inside and falling over `overlap` pixels to each edge; never 0."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0
    side = np.minimum(edge / (overlap + 1), 1.0)
    return np.outer(side, side).astype(np.float32)


class Blend:
    """The weighted mean of windows [C, n, n] that come row of windows by row of windows.

    Of an open band of rows the sums are held; `finished(top)` gives those that no later window reaches.
    """

    def __init__(self, channels: int, width: int, size: int, overlap: int):
        self._weight = ramp(size, overlap)
        self._size, self._top, self._width = size, 0, width
        # Windows at the right edge may reach beyond it.
        self._sum = np.zeros((channels, size, width + size), dtype=np.float32)
        self._total = np.zeros((size, width + size), dtype=np.float32)

    def add(self, window: np.ndarray, left: int, where: np.ndarray | None = None) -> None:
        """Into the current band of rows; with `where` [n, n] only those pixels of it."""
        across = slice(left, left + self._size)
        weight = self._weight if where is None else self._weight * where
        self._sum[:, :, across] += window * weight
        self._total[:, across] += weight

    def finished(self, next_top: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows above `next_top`, where the next band starts: (their top, [C, h, W], covered [h, W]).

        NaN where nothing was added.
        """
        count = min(next_top - self._top, self._size)
        total = self._total[:count, : self._width]
        covered = total > 0
        mean = np.full((len(self._sum), count, self._width), np.nan, dtype=np.float32)
        np.divide(self._sum[:, :count, : self._width], total, out=mean, where=covered)
        for array in (self._sum, self._total):
            array[..., : self._size - count, :] = array[..., count:, :].copy()
            array[..., self._size - count :, :] = 0
        top, self._top = self._top, next_top
        return top, mean, covered
