"""Sentinel-2 and Landsat images of a tile's surface.

- Reflectance = material fractions x spectra, times fine texture, times Lambert's cosine of the
  local sun angle over that of flat ground (part of the light is diffuse), under clouds and shadows.
- L1C adds Rayleigh scattering, which lifts the blue and thins out with height, absorption by water
  vapour (B09, B10) and cirrus (B10). L2A is the surface below, without B10.
- DN = 10,000 x reflectance, + 1,000 from the processing baseline of 2022-01-25 on.
- 20 m and 60 m bands are block means, brought back to 10 m bilinearly.
- Landsat sees the same surface days later under its own clouds and sun, as 3 x 3 area means.
"""

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np

from shards.sources.earth.cover import Cover
from shards.sources.earth.materials import REFLECTANCE
from shards.sources.earth.noise import (
    Purpose,
    block_mean,
    coarsened,
    correlated_fields,
    mixture,
    padded_px,
    stream,
)
from shards.sources.earth.place import Place, sun_position
from shards.sources.earth.terrain import Terrain

OFFSET_DATE = dt.date(2022, 1, 25)
OFFSET_DN = 1000
_OVERPASS_BIT = 48
L2A_BANDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]  # of the 13; B10 sees no ground
_BANDS_20M = [4, 5, 6, 8, 11, 12]
_BANDS_60M = [0, 9, 10]
_OLI_BANDS = [0, 1, 2, 3, 8, 11, 12]
_B10 = 10

_RAYLEIGH = np.array(
    [0.105, 0.078, 0.045, 0.028, 0.024, 0.020, 0.017, 0.015, 0.013, 0.010, 0.001, 0.003, 0.001],
    np.float32,
)
_TRANSMISSION = np.array(
    [0.82, 0.86, 0.90, 0.93, 0.94, 0.94, 0.95, 0.95, 0.96, 0.45, 0.01, 0.94, 0.92], np.float32
)
_CLOUD = np.array(
    [0.72, 0.72, 0.71, 0.71, 0.71, 0.71, 0.70, 0.70, 0.69, 0.62, 0.20, 0.48, 0.38], np.float32
)


@dataclass(frozen=True)
class Sky:
    """Cloud opacity, share of direct light lost to cloud shadow and cirrus reflectance, (H, W)."""

    cloud: np.ndarray
    shadow: np.ndarray
    cirrus: np.ndarray


def make_sky(place: Place, seed: int, tile_px: int, purpose: Purpose) -> Sky | None:
    """The sky over a tile on one overpass, or None when it is clear."""
    rng = stream(seed, purpose, place.index)
    u = rng.random(5)
    if u[0] > 0.18 + 0.22 * place.moisture:
        return None
    size = padded_px(tile_px)
    billows, veil = correlated_fields(rng, size, ((28.0, 2.1), (60.0, 1.8)))
    cover = 1.9 - 1.9 * u[1]
    opacity = np.clip(0.65 * (billows - cover), 0, 1)
    opacity *= 1.9 - 0.9 * opacity
    _, azimuth = sun_position(place.lat, place.day)
    reach = 8 + 14 * u[2]
    shift = (round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth)))
    shadow = np.roll(opacity, shift, (0, 1))
    window = slice(0, tile_px), slice(0, tile_px)
    cirrus = np.clip(0.02 * (veil[window] + 0.5), 0, 1) * np.float32(u[3] < 0.5)
    cloud = opacity[window]
    return Sky(cloud, 0.75 * shadow[window] * (1 - cloud), cirrus)


def illumination(
    place: Place, terrain: Terrain, day: dt.date, texture: np.ndarray, lulc: np.ndarray
) -> np.ndarray:
    """Light relative to flat ground, (H, W), with the fine texture of crowns and clods."""
    cos_zenith, azimuth = sun_position(place.lat, day)
    sin_zenith = np.sqrt(1 - cos_zenith**2)
    # the surface normal is (-slope_x, slope_y, 1) in (east, north, up): slope_y counts southwards
    east, north = np.sin(azimuth) * sin_zenith, np.cos(azimuth) * sin_zenith
    cos_local = cos_zenith - terrain.slope_x * east + terrain.slope_y * north
    cos_local /= np.sqrt(1 + terrain.slope**2)
    direct = np.clip(cos_local / cos_zenith, 0, 2.2)
    amplitude = _TEXTURE[lulc]
    return (0.22 + 0.78 * direct) * np.clip(1 + amplitude * texture, 0.4, 1.8)


# relative standard deviation of brightness per class, 0..9
_TEXTURE = np.array([0, 0.02, 0.13, 0.07, 0.035, 0.10, 0.06, 0.02, 0, 0.06], np.float32)


class Optics:
    """Images of one tile; every method is a pure function of the place and the seed.

    What the land is made of is the same on every overpass; clouds and noise are its own.
    """

    def __init__(self, place: Place, terrain: Terrain, cover: Cover, seed: int, overpass: int = 0):
        self.place, self.terrain, self.cover, self.seed = place, terrain, cover, seed
        self.tile_px = cover.lulc.shape[0]
        rng = stream(seed, Purpose.OPTICS, place.index)
        vary = rng.standard_normal((2, len(REFLECTANCE), 1), dtype=np.float32)
        tilt = np.linspace(-1, 1, 13, dtype=np.float32)
        self.spectra = REFLECTANCE * np.exp(0.07 * vary[0] + 0.05 * vary[1] * tilt)
        self._noise = rng
        self._sky_place = place
        if overpass:
            # Indices of samples stay far below: streams of their own.
            self._sky_place = replace(place, index=place.index | overpass << _OVERPASS_BIT)
            self._noise = stream(seed, Purpose.OPTICS, self._sky_place.index)

    def sentinel2(self, with_l1c: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(L2A (12, H, W), L1C (13, H, W) or None), int16 DN."""
        place, px = self.place, self.tile_px
        surface = mixture(self.cover.fractions, self.spectra)
        surface *= illumination(place, self.terrain, place.day, self.cover.texture, self.cover.lulc)
        sky = make_sky(self._sky_place, self.seed, px, Purpose.CLOUDS)
        if sky is not None:
            surface *= 1 - sky.shadow
            surface += sky.cloud * (_CLOUD[:, None, None] - surface)
        for bands, factor in ((_BANDS_20M, 2), (_BANDS_60M, 6)):
            surface[bands] = coarsened(surface[bands], factor)
        surface += 0.0015 * self._noise.standard_normal(surface.shape, dtype=np.float32)
        offset = OFFSET_DN if place.day >= OFFSET_DATE else 0
        l2a = _digital(surface[L2A_BANDS], offset)
        if not with_l1c:
            return l2a, None
        cos_zenith, _ = sun_position(place.lat, place.day)
        pressure = np.exp(-self.terrain.dem_m / 8000)
        haze = np.float32(0.7 + 0.3 / cos_zenith)
        top = surface * _TRANSMISSION[:, None, None]
        top += _RAYLEIGH[:, None, None] * haze * pressure
        if sky is not None:
            top += sky.cirrus * np.float32(0.3)
            top[_B10] += 0.7 * sky.cirrus + 0.02 * sky.cloud
        return l2a, _digital(top, offset)

    def landsat(self) -> np.ndarray:
        """OLI bands 1-7, (7, H / 3, W / 3) int16: 10,000 x reflectance."""
        place, px = self.place, self.tile_px
        light = illumination(
            place, self.terrain, place.landsat_day, self.cover.texture, self.cover.lulc
        )
        mixed = block_mean(self.cover.fractions * light, 3)
        image = mixture(mixed, self.spectra[:, _OLI_BANDS])
        sky = make_sky(place, self.seed, px, Purpose.LANDSAT)
        if sky is not None:
            image *= 1 - block_mean(sky.shadow, 3)
            image += block_mean(sky.cloud, 3) * (_CLOUD[_OLI_BANDS, None, None] - image)
        return np.clip(np.rint(image * 10_000), -2000, 16_000).astype(np.int16)


def true_colour(l2a: np.ndarray, day: dt.date) -> np.ndarray:
    """8-bit (3, H, W) picture of B04, B03, B02: reflectance 0..0.25 is 0..255."""
    offset = OFFSET_DN if day >= OFFSET_DATE else 0
    reflectance = (l2a[[3, 2, 1]].astype(np.float32) - offset) / 10_000
    return np.clip(reflectance * (255 / 0.25), 0, 255).astype(np.uint8)


def ndvi(l2a: np.ndarray) -> np.ndarray:
    """(B08 - B04) / (B08 + B04) of the DN as they are stored, (1, H, W) float32; NaN at nodata."""
    red, nir = l2a[3].astype(np.float32), l2a[7].astype(np.float32)
    total = nir + red
    return np.divide(nir - red, total, out=np.full_like(red, np.nan), where=total != 0)[None]


def _digital(reflectance: np.ndarray, offset: int) -> np.ndarray:
    # 0 is nodata, so the darkest measured pixel is 1
    return np.clip(np.rint(reflectance * 10_000) + offset, 1, 16_000).astype(np.int16)
