"""Terrain of one tile: a fractal surface over a valley with a river, a lake or a coast.

- Heights above the valley floor are positive by construction (softplus of tilt + fractal, damped
  towards the valley's axis), so water always lies lowest.
- High places are rugged places: relief grows with the height of the region's floor. That is what
  lets a model read height from shading, slopes and radar.
"""

from dataclasses import dataclass

import numpy as np

from shards.sources.earth.noise import Purpose, correlated_fields, padded_px, stream
from shards.sources.earth.place import Place

PIXEL_M = 10.0


@dataclass(frozen=True)
class Terrain:
    """Maps of (H, W) float32 unless said otherwise.

    `above_water_m` is the height above the nearest water or valley floor, `slope_x`, `slope_y` are
    rises per metre towards east and south, `water` is a bool map, `relief_m` the tile's relief.
    """

    dem_m: np.ndarray
    above_water_m: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    slope: np.ndarray
    water: np.ndarray
    valley_distance_px: np.ndarray
    has_river: bool
    relief_m: float


def make_terrain(place: Place, seed: int, tile_px: int) -> Terrain:
    """The terrain of a tile; heights in metres."""
    rng = stream(seed, Purpose.TERRAIN, place.index)
    fields = correlated_fields(rng, padded_px(tile_px), ((110.0, 2.35), (55.0, 4.0)))
    fractal, smooth = fields[:, :tile_px, :tile_px]
    u = rng.random(8)

    rugged = place.region.rugged
    relief_m = 4 * rugged + (0.015 + 0.02 * rugged) * place.height_m
    relief_m = float(relief_m * np.exp(0.5 * (u[0] - 0.5)))
    y, x = np.mgrid[:tile_px, :tile_px].astype(np.float32) - (tile_px - 1) / 2
    heading = 2 * np.pi * u[1]
    tilt = np.float32(0.03 * relief_m) * (np.cos(heading) * x + np.sin(heading) * y)
    surface = np.float32(relief_m) * fractal + tilt

    if place.is_coast:
        # the shore passes within a third of a tile of the centre
        slope = np.float32(0.25 + 0.5 * u[2] + 0.02 * relief_m)
        shore = np.cos(heading) * x + np.sin(heading) * y + np.float32(tile_px * 0.6 * (u[3] - 0.5))
        raw = slope * (shore + 9 * smooth) + np.float32(min(relief_m, 25)) * 0.25 * fractal
        above = np.maximum(raw, 0)
        return _finish(above, above, raw <= 0, np.abs(shore), False)

    # a straight line bent by a smooth field: it meanders and seldom closes on itself
    course = smooth + (np.cos(heading) * x + np.sin(heading) * y) / np.float32(24)
    valley = _signed_distance(course, u, tile_px)
    distance = np.abs(valley)
    width = np.float32(tile_px * (0.08 + 0.25 * u[4]))
    damping = 1 - np.exp(-((distance / width) ** 2))
    lift = np.float32(0.8 * relief_m)
    # softplus with the relief as its scale keeps the surface smooth where it meets the floor
    soft = np.float32(0.7 * relief_m + 0.5)
    above = damping * soft * np.logaddexp(0, (surface + lift) / soft)

    # catchments shrink towards the summits, and with them rivers and lakes
    catchment = place.moisture * np.exp(-place.height_m / 2500)
    has_river = bool(u[5] < 0.15 + 0.75 * catchment)
    water = (
        distance < np.float32(0.8 + 5 * u[6] ** 2 * (0.3 + catchment))
        if has_river
        else distance < 0
    )
    u_lake, u_size = rng.random(2)
    if u_lake < 0.45 * catchment:
        level = np.float32(np.quantile(above, 0.05 + 0.6 * u_size**1.5))
        water |= above <= level
        above = np.maximum(above - level, 0)
    return _finish(np.float32(place.height_m) + above, above, water, distance, has_river)


def _signed_distance(course: np.ndarray, u: np.ndarray, tile_px: int) -> np.ndarray:
    """Distance in pixels, to first order, from a level line of the field `course`.

    The line passes through the middle of the tile in two of three tiles and else misses it.
    """
    gy, gx = np.gradient(course)
    row, column = (tile_px * (0.25 + 0.5 * u[2:4])).astype(int)
    level = course[row, column] if u[7] < 0.67 else course.min() - np.float32(0.3)
    return (course - level) / np.sqrt(gx * gx + gy * gy + np.float32(2e-4))


def _finish(
    dem_m: np.ndarray,
    above: np.ndarray,
    water: np.ndarray,
    distance: np.ndarray,
    has_river: bool,
) -> Terrain:
    dem_m = dem_m.astype(np.float32)
    slope_y, slope_x = np.gradient(dem_m, np.float32(PIXEL_M))
    return Terrain(
        dem_m=dem_m,
        above_water_m=above.astype(np.float32),
        slope_x=slope_x,
        slope_y=slope_y,
        slope=np.sqrt(slope_x * slope_x + slope_y * slope_y),
        water=water,
        valley_distance_px=distance.astype(np.float32),
        has_river=has_river,
        relief_m=float(dem_m.max() - dem_m.min()),
    )
