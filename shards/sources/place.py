"""Whether two sources mean the same place by a key, as far as both say where it lies."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from configs.schema.modality import Modality
from shards.sample import Part, SampleMeta
from shards.sources.grid import GRID_M, Grid, difference

# Tables give a corner, or a rounded centre; 11 km is beyond either for a tile of a few kilometres.
_FAR_DEG = 0.1


Size = tuple[float, float]


def contradiction(a: SampleMeta, b: SampleMeta, size_a: Size, size_b: Size) -> str | None:
    """How the places of two samples contradict each other; None when they do not, or one is unknown.

    Sizes are those of their maps, (height, width) in pixels of 10 m. Where both have a transform, sizes
    must be the same and bounds agree to half a pixel; else centres may be 0.1 degrees apart.
    """
    if a.crs and b.crs and a.transform and b.transform:
        crs = a.crs if _same_crs(a.crs, b.crs) else b.crs
        return difference(Grid(a.crs, a.transform, *size_a), Grid(crs, b.transform, *size_b))
    if a.lon is None or a.lat is None or b.lon is None or b.lat is None:
        return None
    east = abs((a.lon - b.lon + 180) % 360 - 180) * math.cos(math.radians(a.lat))
    if max(east, abs(a.lat - b.lat)) <= _FAR_DEG:
        return None
    return f"centres at {a.lon:g}, {a.lat:g} and {b.lon:g}, {b.lat:g} (longitude, latitude)"


def size_of(parts: Mapping[str, Part], rows: Mapping[str, Modality]) -> Size | None:
    """(height, width) of the first map among the parts, in pixels of 10 m; None without any."""
    for name, part in parts.items():
        gsd_m = rows[name].gsd_m
        if rows[name].is_map and gsd_m and isinstance(part, np.ndarray):
            return part.shape[1] * gsd_m / GRID_M, part.shape[2] * gsd_m / GRID_M
    return None


@functools.lru_cache(maxsize=256)
def _same_crs(a: str, b: str) -> bool:
    """Whether two texts, such as an EPSG code and WKT, mean one CRS."""
    if a == b:
        return True
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(a) == CRS.from_user_input(b)
    except CRSError:
        return False
