"""Sentinel-1 images of a tile: backscatter of the same materials, with speckle and relief.

- Gamma nought is the mixture of the materials' backscatter, plus volume from the canopy (which
  saturates near 20 m) and soil moisture; water is smooth or wind-roughened.
- RTC is terrain corrected: what is left of relief is a tenth. GRD keeps it: slopes that face the
  sensor are bright by the cotangent of the local incidence angle.
- Speckle is multiplicative, gamma distributed, of unit mean.
"""

import numpy as np

from shards.sources.earth.cover import TREES, WATER, Cover
from shards.sources.earth.materials import BACKSCATTER
from shards.sources.earth.noise import Purpose, mixture, stream
from shards.sources.earth.place import Place
from shards.sources.earth.terrain import Terrain

_NOISE_FLOOR = np.float32(10**-3.3)


class Radar:
    """Images of one tile; every method is a pure function of the place and the seed."""

    def __init__(self, place: Place, terrain: Terrain, cover: Cover, seed: int):
        self.place, self.terrain, self.cover, self.seed = place, terrain, cover, seed
        rng = stream(seed, Purpose.RADAR, place.index)
        u = rng.random(4)
        self.looks = 6 + 6 * u[0]
        self.incidence = np.radians(31 + 14 * u[1])
        # right-looking: a descending pass looks west, an ascending one east, both a little north
        self.heading = np.radians(-80.0 if u[2] < 0.5 else 80.0)
        wind_db = 5 * u[3] - 2.5

        gamma = mixture(cover.fractions, BACKSCATTER)
        volume = np.where(cover.lulc == TREES, 0.55 + 0.6 * (1 - np.exp(-cover.canopy_m / 9)), 1)
        open_land = (cover.lulc != TREES) & (cover.lulc != WATER)
        damp = 10 ** (0.25 * (cover.wetness - 0.5) * open_land)
        wind = np.where(cover.lulc == WATER, np.float32(10 ** (wind_db / 10)), np.float32(1))
        self.relief = self._relief()
        self.gamma = gamma * (volume * damp * wind).astype(np.float32)

    def rtc(self) -> np.ndarray:
        """Radiometrically terrain corrected gamma nought, (2, H, W) float32 dB."""
        return self._speckled(self.gamma * self.relief**0.1, Purpose.S1RTC)

    def grd(self) -> np.ndarray:
        """Ground range detected sigma nought, (2, H, W) float32 dB."""
        sigma = self.gamma * np.float32(np.cos(self.incidence))
        return self._speckled(sigma * self.relief, Purpose.S1GRD)

    def _relief(self) -> np.ndarray:
        """Brightness of a slope relative to flat ground, about 0.1 .. 10."""
        terrain = self.terrain
        towards = terrain.slope_x * np.sin(self.heading) - terrain.slope_y * np.cos(self.heading)
        local = np.clip(self.incidence - np.arctan(towards), 0.12, 1.45)
        return (np.tan(self.incidence) / np.tan(local)).astype(np.float32)

    def _speckled(self, power: np.ndarray, purpose: Purpose) -> np.ndarray:
        rng = stream(self.seed, purpose, self.place.index)
        speckle = rng.standard_gamma(self.looks, power.shape, dtype=np.float32)
        power = (power + _NOISE_FLOOR) * speckle / np.float32(self.looks)
        return (10 * np.log10(np.maximum(power, 1e-6))).astype(np.float32)
