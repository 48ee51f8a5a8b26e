"""Where a map lies, told in pixels of 10 m so that maps of any pixel size compare."""

import math
from typing import Any, NamedTuple

from configs.schema.modality import Modality

GRID_M = 10.0


class Grid(NamedTuple):
    """Where a map lies: its size counted in pixels of 10 m, and the transform of that grid."""

    crs: str | None
    transform: tuple[float, float, float, float, float, float] | None
    height: float
    width: float


def difference(a: Grid, b: Grid) -> str | None:
    """How two maps of one place contradict each other; None when they do not."""
    if (a.height, a.width) != (b.height, b.width):
        return f"{a.height:g} x {a.width:g} and {b.height:g} x {b.width:g} pixels of {GRID_M:g} m"
    if a.transform is None or b.transform is None:
        return None
    if a.crs != b.crs:
        return f"CRS {a.crs} and {b.crs}"
    pixel = max(abs(v) for v in (a.transform[0], a.transform[1]))
    apart = max(
        abs(p - q)
        for corner in ((0.0, 0.0), (a.width, a.height))
        for p, q in zip(_apply(a.transform, *corner), _apply(b.transform, *corner), strict=True)
    )
    return f"bounds {apart:g} apart, more than half a pixel" if apart > pixel / 2 else None


def _apply(t: tuple[float, ...], col: float, row: float) -> tuple[float, float]:
    return t[0] * col + t[1] * row + t[2], t[3] * col + t[4] * row + t[5]


def grid_of(file: Any, row: Modality) -> Grid:
    """The grid of an open rasterio file of this modality; without place if it is not georeferenced."""
    assert row.gsd_m is not None
    scale = GRID_M / row.gsd_m
    height, width = file.height / scale, file.width / scale
    if not _georeferenced(file):
        return Grid(None, None, height, width)
    a, b, c, d, e, f = file.transform[:6]
    transform = (a * scale, b * scale, c, d * scale, e * scale, f)
    return Grid(file.crs.to_string(), transform, height, width)


def _georeferenced(file: Any) -> bool:
    return file.crs is not None and not file.transform.is_identity


def centre(file: Any) -> tuple[float, float] | None:
    """Longitude and latitude of the middle of the map, degrees."""
    if not _georeferenced(file):
        return None
    from rasterio.warp import transform

    x, y = _apply(file.transform[:6], file.width / 2, file.height / 2)
    found = transform(file.crs, "EPSG:4326", [x], [y])
    lon, lat = float(found[0][0]), float(found[1][0])
    return (lon, lat) if math.isfinite(lon + lat) else None
