"""One GeoTIFF as one map of a sample, and the maps of one place together.

- Values are converted to the registry's type only where nothing is lost; the file's nodata value
  becomes the registry's. Names of bands, masks and scales: see `shards.sources.rasters`.
- All maps of a sample must show the same place: same CRS, same bounds (to half a pixel of 10 m) and
  sizes that agree with their pixel sizes. Nothing says which of them is right when they do not.
"""

import datetime
import functools
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.registry import modality
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.sample import Part, Sample, SampleMeta
from shards.sources.grid import GRID_M, Grid, Window, centre, difference, grid_of
from shards.sources.rasters import band_order, read_pixels

DERIVED = ("coordinates", "date")
"""Modalities that come from georeferencing and tags, not from files of their own."""

_TIME_TAGS = ("datetime", "TIFFTAG_DATETIME", "ACQUISITION_DATE", "acquisition_date", "date")


class Map(NamedTuple):
    """One file, or a window of one, read. `day` is ISO 8601, `lonlat` degrees of the centre."""

    array: np.ndarray
    grid: Grid
    day: str | None
    lonlat: tuple[float, float] | None


def read_map(path: Path, name: str, window: Window | None = None) -> Map:
    """The map of modality `name`, or what `window` (pixels of 10 m) cuts out of it.

    Raises SampleError for what is unreadable, has other bands, or lies outside of the file.
    """
    row = modality(name)
    with open_tiff(path, SampleError) as file:
        part = _in_pixels(file, row, window)
        try:
            array = read_pixels(
                file, row, str(path), part and _rasterio().windows.Window(*_cols_first(part))
            )
        except _rasterio().errors.RasterioError as error:
            raise SampleError(f"{path}: pixels cannot be read: {error}") from error
        return Map(
            array=array,
            grid=grid_of(file, row, part),
            day=_day(file.tags()),
            lonlat=centre(file, part),
        )


def place_of(
    path: Path, name: str, window: Window | None = None
) -> tuple[float | None, float | None]:
    """Longitude and latitude of a map's centre from its header; (None, None) where it has none."""
    try:
        with open_tiff(path, SampleError) as file:
            return centre(file, _in_pixels(file, modality(name), window)) or (None, None)
    except SampleError:
        # Listed all the same: reading it fails again and is told with its reason.
        return None, None


def check_header(path: Path, name: str) -> None:
    """Raise SourceError when the file has not the bands of modality `name`."""
    with open_tiff(path, SourceError) as file:
        band_order(file, modality(name), str(path), SourceError)


def _common_grid(key: str, maps: Mapping[str, Map]) -> Grid:
    """Where all maps of a sample lie. Raises SampleError when they contradict each other."""
    first, *others = maps
    grid = maps[first].grid
    for name in others:
        wrong = difference(grid, maps[name].grid)
        if wrong:
            raise SampleError(f"{key}: {first} and {name} do not show the same place: {wrong}")
        # The first georeferenced map speaks for those that are not.
        grid = grid if grid.transform else maps[name].grid
    return grid


def sample_of(
    key: str,
    maps: Mapping[str, Map],
    faults: dict[str, str],
    source: str,
    derived: Collection[str] = DERIVED,
) -> Sample:
    """The sample these maps make, with what georeferencing and tags give of `derived`.

    `date` is the day of the first map, in the order given, that has one.
    Raises SampleError when there is no map, or they do not show the same place.
    """
    if not maps:
        raise SampleError("; ".join(faults.values()))
    grid = _common_grid(key, maps)
    lonlat = next((m.lonlat for m in maps.values() if m.lonlat), None)
    times = {name: m.day for name, m in maps.items() if m.day}
    parts: dict[str, Part] = {name: m.array for name, m in maps.items()}
    if lonlat and "coordinates" in derived:
        parts["coordinates"] = np.array(lonlat, np.float64)
    if times and "date" in derived:
        parts["date"] = next(iter(times.values()))
    meta = SampleMeta(
        lon=lonlat[0] if lonlat else None,
        lat=lonlat[1] if lonlat else None,
        crs=grid.crs,
        transform=grid.transform,
        times=times,
        source=source,
    )
    return Sample(key, parts, meta, faults)


@contextmanager
def open_tiff(path: Path, error: type[SampleError | SourceError]) -> Iterator[Any]:
    """An open rasterio file. Raises `error` when it is none."""
    rasterio = _rasterio()
    with warnings.catch_warnings():
        # A file without georeferencing is a sample without coordinates, which we tell ourselves.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = rasterio.open(path)
        except rasterio.errors.RasterioError as caught:
            raise error(f"{path}: not readable as GeoTIFF: {caught}") from caught
        with file:
            yield file


def _in_pixels(file: Any, row: Modality, window: Window | None) -> Window | None:
    """A window counted in pixels of 10 m, in the file's own pixels; None stays None: all of it."""
    if window is None:
        return None
    assert row.gsd_m is not None
    scaled = [value * GRID_M / row.gsd_m for value in window]
    if not all(value.is_integer() for value in scaled):
        raise SampleError(
            f"{file.name}: the window {tuple(window)} does not fall on whole pixels of "
            f"{row.name}'s {row.gsd_m:g} m; choose offsets and sizes that do"
        )
    part = Window(*map(int, scaled))
    inside = (
        min(part.row_off, part.col_off) >= 0
        and min(part.height, part.width) > 0
        and part.row_off + part.height <= file.height
        and part.col_off + part.width <= file.width
    )
    if not inside:
        raise SampleError(
            f"{file.name}: the window {tuple(window)} (pixels of {GRID_M:g} m) does not lie in "
            f"the {file.height} x {file.width} pixels of the file"
        )
    return part


def _cols_first(window: Window) -> tuple[int, int, int, int]:
    return window.col_off, window.row_off, window.width, window.height


def _day(tags: dict[str, str]) -> str | None:
    """The acquisition day in a TIFF's tags; TIFF itself writes 2021:07:23 13:22:41."""
    return next((day for tag in _TIME_TAGS if (day := iso_day(tags.get(tag, "")))), None)


def iso_day(text: str) -> str | None:
    """The day a text begins with, ISO 8601; None when it begins with none."""
    match = re.match(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})", text)
    if match is None:
        return None
    try:
        return datetime.date(*map(int, match.groups())).isoformat()
    except ValueError:
        return None


@functools.cache
def _rasterio() -> Any:
    import rasterio
    import rasterio.errors
    import rasterio.windows

    return rasterio
