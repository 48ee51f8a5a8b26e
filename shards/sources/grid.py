"""Where a map lies, told in pixels of 10 m so that maps of any pixel size compare."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs.schema.modality import Modality

GRID_M = 10.0
Affine = tuple[float, float, float, float, float, float]


class Grid(NamedTuple):
    """Where a map lies: its size counted in pixels of 10 m, and the transform of that grid."""

    crs: str | None
    transform: Affine | None
    height: float
    width: float


class Window(NamedTuple):
    """A rectangle of pixels."""

    row_off: int
    col_off: int
    height: int
    width: int


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
        for p, q in zip(apply(a.transform, *corner), apply(b.transform, *corner), strict=True)
    )
    return f"bounds {apart:g} apart, more than half a pixel" if apart > pixel / 2 else None


def grid_of(file: Any, row: Modality, window: Window | None = None) -> Grid:
    """The grid of an open rasterio file of this modality; without place if it is not georeferenced.

    `window` takes a part of it, in the file's own pixels.
    """
    assert row.gsd_m is not None
    window = window or _whole(file)
    if not _georeferenced(file):
        return grid_at(None, None, window.height, window.width, row.gsd_m)
    affine = _moved(file.transform[:6], window)
    return grid_at(file.crs.to_string(), affine, window.height, window.width, row.gsd_m)


def grid_at(crs: str | None, affine: Affine | None, height: int, width: int, gsd_m: float) -> Grid:
    """The grid of a map with pixels of `gsd_m`; its size and transform count those."""
    scale = GRID_M / gsd_m
    if affine is not None:
        a, b, c, d, e, f = affine
        affine = (a * scale, b * scale, c, d * scale, e * scale, f)
    return Grid(crs, affine, height / scale, width / scale)


def centre(file: Any, window: Window | None = None) -> tuple[float, float] | None:
    """Longitude and latitude of the middle of an open rasterio file or a part of it, degrees."""
    if not _georeferenced(file):
        return None
    window = window or _whole(file)
    return centre_at(file.crs, _moved(file.transform[:6], window), window.height, window.width)


def centre_at(crs: Any, affine: Affine, height: int, width: int) -> tuple[float, float] | None:
    """Longitude and latitude of the middle of a map, degrees; None where there are none."""
    found = to_degrees(crs, [apply(affine, width / 2, height / 2)])
    return found[0] if found and math.isfinite(sum(found[0])) else None


def to_degrees(crs: Any, places: Sequence[tuple[float, float]]) -> list[tuple[float, float]] | None:
    """Places (x, y) in a CRS as longitude and latitude; None where no way leads from one to the other."""
    # GDAL's own errors leave `transform` as they are, and rasterio has no public name for them.
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    try:
        lon, lat = transform(crs, "EPSG:4326", *zip(*places, strict=True))[:2]
    except (RasterioError, CPLE_BaseError):
        # A local grid says where its pixels lie to one another, and not where on Earth.
        return None
    return [(float(a), float(b)) for a, b in zip(lon, lat, strict=True)]


def _whole(file: Any) -> Window:
    return Window(0, 0, file.height, file.width)


def _georeferenced(file: Any) -> bool:
    return file.crs is not None and not file.transform.is_identity


def _moved(affine: Affine, window: Window) -> Affine:
    x, y = apply(affine, window.col_off, window.row_off)
    return (affine[0], affine[1], x, affine[3], affine[4], y)


def apply(t: tuple[float, ...], col: float, row: float) -> tuple[float, float]:
    """Where an affine transform (a, b, c, d, e, f) puts a column and row."""
    return t[0] * col + t[1] * row + t[2], t[3] * col + t[4] * row + t[5]
