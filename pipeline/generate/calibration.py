"""How far expected maps of images may be trusted, learned where the truth is known.

From a source that tells little a model makes a map that is not its mean, only near it: what it adds is error.
Per band, the truth of training samples is regressed on the maps that the model makes of them:

    estimate = mean + a + b (map - mean)

with the training mean. A slope that is hardly larger than its own error, and an offset likewise, are shrunk
towards 0 (James and Stein 1961, positive part), so that noise of the fit adds none to the map. Errors are
taken over samples: pixels of one sample are no independent observations.
"""

from functools import cached_property

import numpy as np

from configs.schema import Modality
from pipeline.data.transforms import measured_pixels


class Calibration:
    """Of one image modality, given one set of sources. Does nothing before it has seen two samples."""

    def __init__(self, row: Modality, mean: np.ndarray):
        self._row, self._mean = row, np.asarray(mean, np.float64)[:, None, None]
        self._sums: list[np.ndarray] = []

    def add(self, made: np.ndarray, truth: np.ndarray) -> None:
        """The map of a training sample and its truth, [C, H, W] in physical units."""
        valid = measured_pixels(truth, self._row)
        if not valid.any():
            return
        x, y = ((v.astype(np.float64) - self._mean)[:, valid] for v in (made, truth))
        n = np.full(len(x), valid.sum(), np.float64)
        sums = n, x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)
        self._sums.append(np.stack(sums))

    @cached_property
    def line(self) -> tuple[np.ndarray, np.ndarray]:
        """Offset and slope per band [C]; asked for when all samples were added."""
        parts = np.array(self._sums)  # [samples, 5, C]
        n, x, y, xx, xy = parts.sum(0)
        mx, my = x / n, y / n
        spread = np.maximum(xx - n * mx**2, 1e-12)
        slope = (xy - n * mx * my) / spread
        # What each sample's residuals pull at the slope and at the level.
        pn, px, py, pxx, pxy = parts.transpose(1, 0, 2)
        centred_xy = pxy - mx * py - my * px + pn * mx * my
        centred_xx = pxx - 2 * mx * px + pn * mx**2
        pull = centred_xy - slope * centred_xx
        slope = np.clip(_shrunk(slope, (pull**2).sum(0) / spread**2), 0, 1)
        level = my - slope * mx
        residual = py - pn * level - slope * px
        return _shrunk(level, (residual**2).sum(0) / n**2), slope

    def __call__(self, made: np.ndarray) -> np.ndarray:
        """A map [C, H, W] -> the estimate of least error, of its type."""
        if len(self._sums) < 2:
            return made
        level, slope = (v[:, None, None] for v in self.line)
        return (self._mean + level + slope * (made - self._mean)).astype(made.dtype)


def _shrunk(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Towards 0, by as much as the value could be noise."""
    square = np.maximum(value**2, np.finfo(np.float64).tiny)
    return value * np.maximum(0, 1 - variance / square)
