"""Sentinel-2 on further dates: the same land in other seasons, under other skies.

Land cover and terrain stay; crops grow and ripen, leaves fall, snow lies and the sun stands as on the
day. Dates follow the sample's own about a quarter of a year apart, so that four of them see all seasons.
"""

import dataclasses
import datetime as dt

import numpy as np

from shards.sources.earth.cover import make_cover
from shards.sources.earth.noise import Purpose, stream
from shards.sources.earth.optics import Optics
from shards.sources.earth.place import Place
from shards.sources.earth.terrain import Terrain

DAYS_APART = 91
_JITTER_DAYS = 20


def day_of(place: Place, seed: int, date: int) -> dt.date:
    """The day of date 1, 2, ... of a place; date 0 is `place.day`."""
    shift = stream(seed, Purpose.SEASONS, place.index).uniform(-1, 1, date)[-1]
    return place.day + dt.timedelta(DAYS_APART * date + round(_JITTER_DAYS * shift))


def sentinel2_on(place: Place, terrain: Terrain, seed: int, tile_px: int, date: int) -> np.ndarray:
    """L2A (12, H, W) of date 1, 2, ..., int16 DN."""
    later = dataclasses.replace(place, day=day_of(place, seed, date))
    cover = make_cover(later, terrain, seed, tile_px)
    return Optics(later, terrain, cover, seed, overpass=date).sentinel2(with_l1c=False)[0]
