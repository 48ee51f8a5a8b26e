"""Land cover as it was some years before: towns were smaller, forests larger or younger, ice wider.

Changes come in patches of some 250 m and touch from nothing to a quarter of a tile; everything else is
as it is now.
"""

import numpy as np

from shards.sources.earth.cover import BARE, BUILT, CROPS, RANGELAND, SNOW, TREES, Cover
from shards.sources.earth.noise import Purpose, correlated_fields, padded_px, stream
from shards.sources.earth.place import Place


def cover_before(place: Place, cover: Cover, seed: int) -> np.ndarray:
    """Classes of LULC at the earlier date, (H, W) uint8."""
    rng = stream(seed, Purpose.CHANGE, place.index)
    tile_px = cover.lulc.shape[0]
    field = correlated_fields(rng, padded_px(tile_px), ((25.0, 2.2),))[0, :tile_px, :tile_px]
    u_calm, u_planted = rng.random(2)
    changed = field > 0.7 + 1.3 * u_calm

    was = np.arange(10, dtype=np.uint8)
    was[BUILT] = CROPS if place.region.farmed >= 0.5 else RANGELAND
    if place.moisture >= 0.45 and place.summer_temperature > 9.5:
        # forest was cleared for fields and pasture, or planted on them
        if u_planted < 0.3:
            was[TREES] = RANGELAND
        else:
            was[[CROPS, RANGELAND]] = TREES
    if (cover.lulc == SNOW).any():
        was[BARE] = SNOW
    return np.where(changed, was[cover.lulc], cover.lulc)
