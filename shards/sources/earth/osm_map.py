"""OSM features as a class map, drawn from what the OSM tags are written from.

A class of the map occurs only where its tag does: what covers less than the tags mention is not mapped.
Nobody on the synthetic Earth has built railways, airfields, factories or parks yet.
"""

import numpy as np

from shards.sources.earth.cover import (
    BARE,
    BUILT,
    CROPS,
    FLOODED,
    RANGELAND,
    SNOW,
    TREES,
    WATER,
    Cover,
)
from shards.sources.earth.words import shares_of

# numbers of configs/modalities/OSMraster, by land cover
_AREAS = {
    BARE: 1,
    RANGELAND: 2,
    CROPS: 3,
    TREES: 4,
    FLOODED: 5,
    SNOW: 6,
    BUILT: 7,
    WATER: 10,
}
_BUILDING, _ROAD = 12, 14


def osm_map(cover: Cover) -> np.ndarray:
    """Classes of OSMraster, (H, W) uint8: areas, in settlements also buildings and streets."""
    drawn_as = np.zeros(256, np.uint8)
    for value, _ in shares_of(cover.lulc):
        drawn_as[value] = _AREAS[value]
    drawn = drawn_as[cover.lulc]
    if cover.settlement is not None:
        residential = drawn == _AREAS[BUILT]
        drawn[residential & ~cover.settlement.garden] = _BUILDING
        drawn[residential & cover.settlement.street] = _ROAD
    return drawn
