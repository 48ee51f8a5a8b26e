"""A scene as overlapping windows, and their results as one map, in memory for one row of windows.

Each window's weight falls linearly to its edges over the overlap, so that neighbours blend without a seam
(the weights need not sum to one: sums are divided by the sum of weights).
"""

from dataclasses import dataclass

import numpy as np

from pipeline.data.transforms import GRID_M


@dataclass(frozen=True)
class Tiling:
    """Windows over a scene: `tops` x `lefts`, all in metres, multiples of GRID_M."""

    window_m: float
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def over(cls, height_m: float, width_m: float, window_m: float, overlap: float) -> "Tiling":
        """Windows that cover everything; the last may reach beyond by less than GRID_M.

        Raises ValueError for a scene smaller than a window.
        """
        if min(height_m, width_m) < window_m:
            raise ValueError(
                f"a scene of {height_m:g} x {width_m:g} m is smaller than a window of {window_m:g} m"
            )
        return cls(
            window_m, _starts(height_m, window_m, overlap), _starts(width_m, window_m, overlap)
        )


def _starts(extent: float, window: float, overlap: float) -> tuple[int, ...]:
    step = max(GRID_M, int(window * (1 - overlap) // GRID_M) * GRID_M)
    last = -int(-(extent - window) // GRID_M) * GRID_M
    return (*range(0, last, step), last)


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
