"""Maps in files, read and written window by window: GeoTIFF, or .npy without a place.

Windows may reach beyond a map; what is not there is nodata: the registry's, whatever the file's is.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs import ConfigError
from configs.schema import Modality
from pipeline.engine.errors import RunError
from shards.sources.convert import invalid_pixels, to_row
from shards.sources.grid import GRID_M, Grid, centre_at, difference, grid_at, grid_of

_METRES_PER_DEGREE = 111_320


class Raster(Protocol):
    """One open map."""

    grid: Grid
    path: Path

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """[C, height, width] in a type that holds the modality's nodata; nodata outside.

        Raises SampleError for a class map whose values are no classes.
        """
        ...


class Writer(Protocol):
    """A map that is written from the top down."""

    def write(self, rows: np.ndarray, top: int) -> None: ...


class _Npy:
    def __init__(self, path: Path, row: Modality):
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._array.ndim == 2:
            self._array = self._array[None]
        assert row.gsd_m is not None
        self.path, self._row = path, row
        self.grid = grid_at(None, None, self._array.shape[1], self._array.shape[2], row.gsd_m)
        self.num_bands = len(self._array)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        part = self._array[:, max(0, top) : top + height, max(0, left) : left + width]
        part = _converted(part, None, self._row, self.path)
        return _padded(part, self._row, max(0, -top), max(0, -left), height, width)


class _Tif:
    def __init__(self, file: Any, path: Path, row: Modality):
        self._file, self.path, self._row = file, path, row
        self.grid = grid_of(file, row)
        self.num_bands = file.count

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        from rasterio.windows import Window

        first_row, first_column = max(0, top), max(0, left)
        rows = max(0, min(top + height, self._file.height) - first_row)
        columns = max(0, min(left + width, self._file.width) - first_column)
        window = Window(first_column, first_row, columns, rows)  # type: ignore[call-arg]
        part = _converted(self._file.read(window=window), self._file.nodata, self._row, self.path)
        return _padded(part, self._row, first_row - top, first_column - left, height, width)


@contextmanager
def opened(path: Path, row: Modality) -> Iterator[Any]:
    """A map of this modality. Raises RunError for a file that is not one."""
    if not path.is_file():
        raise RunError(f"{path}: no such file")
    if path.suffix == ".npy":
        raster = _Npy(path, row)
        _check(raster.num_bands, raster, row)
        yield raster
        return
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
    except RasterioIOError as error:
        raise RunError(f"{path} is no raster that can be read: {error}") from error
    with file:
        raster = _Tif(file, path, row)
        _check(raster.num_bands, raster, row)
        yield raster


def check_same_ground(rasters: dict[str, Raster]) -> None:
    """Raises ConfigError where two maps do not show the same ground."""
    first, *others = rasters.items()
    for name, raster in others:
        apart = difference(first[1].grid, raster.grid)
        if apart is not None:
            raise ConfigError(
                f"{name} ({raster.path}) and {first[0]} ({first[1].path}) do not show the same ground: "
                f"{apart}; warp one onto the other's grid first"
            )


@contextmanager
def created(
    path: Path, row: Modality, grid: Grid, num_bands: int, dtype: str, nodata: float | None
) -> Iterator[Writer]:
    """A map of this modality on the ground of `grid`; under its own name when it is whole, or gone."""
    assert row.gsd_m is not None
    scale = row.gsd_m / 10.0
    height, width = round(grid.height / scale), round(grid.width / scale)
    partial = path.with_name(path.name + ".partial")
    try:
        if path.suffix == ".npy":
            array = np.lib.format.open_memmap(partial, "w+", dtype, (num_bands, height, width))
            yield _NpyWriter(array)
            array.flush()
        else:
            import rasterio
            from rasterio.errors import NotGeoreferencedWarning
            from rasterio.transform import Affine

            transform = None
            if grid.transform is not None:
                a, b, c, d, e, f = grid.transform
                transform = Affine(a * scale, b * scale, c, d * scale, e * scale, f)
            profile = {
                "driver": "GTiff", "height": height, "width": width, "count": num_bands,
                "dtype": dtype, "crs": grid.crs, "transform": transform, "nodata": nodata,
                "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
                "BIGTIFF": "IF_SAFER",
            }  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                file = rasterio.open(
                    partial, "w", **{k: v for k, v in profile.items() if v is not None}
                )
            with file:
                if num_bands == row.num_bands:
                    for number, band in enumerate(row.bands, 1):
                        file.set_band_description(number, band)
                yield _TifWriter(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


class _NpyWriter:
    def __init__(self, array: np.ndarray):
        self._array = array

    def write(self, rows: np.ndarray, top: int) -> None:
        self._array[:, top : top + rows.shape[1]] = rows


class _TifWriter:
    def __init__(self, file: Any):
        self._file = file

    def write(self, rows: np.ndarray, top: int) -> None:
        from rasterio.windows import Window

        window = Window(0, top, rows.shape[2], rows.shape[1])  # type: ignore[call-arg]
        self._file.write(rows, window=window)


def _check(num_bands: int, raster: Any, row: Modality) -> None:
    if num_bands != row.num_bands:
        raise RunError(
            f"{raster.path} has {num_bands} bands, {row.name} has {row.num_bands}: {', '.join(row.bands)}"
        )
    if raster.grid.transform is not None and not _has_its_pixels(raster.grid):
        raise RunError(
            f"{raster.path}: pixels are not {row.gsd_m:g} m; warp it to {row.name}'s grid first, in UTM"
        )


def _has_its_pixels(grid: Grid) -> bool:
    """Whether the pixels of a map have the registry's size; of one in degrees, roughly and in its middle."""
    from rasterio.crs import CRS

    if grid.transform is None:
        return True
    crs = CRS.from_user_input(grid.crs)
    a, b, _, d, e, _ = grid.transform
    # A grid counts in pixels of 10 m, whatever the file's are.
    if crs.is_projected:
        sides, most = np.hypot([a, b], [d, e]) * crs.linear_units_factor[1], GRID_M / 200
    else:
        middle = centre_at(crs, grid.transform, round(grid.height), round(grid.width))
        if middle is None:
            return True
        narrow = np.cos(np.radians(middle[1]))
        sides = np.hypot([a * narrow, b * narrow], [d, e]) * _METRES_PER_DEGREE
        most = GRID_M / 5
    return bool(np.all(np.abs(sides - GRID_M) < most))


def _converted(part: np.ndarray, nodata: float | None, row: Modality, path: Path) -> np.ndarray:
    """The same values in a type that holds the modality's nodata, which takes the place of the file's.

    That is the registry's type where it holds all that the file's can, else float32: what was measured need
    not fit. Whole numbers are classes of the registry's type, or none: then SampleError.
    """
    invalid = invalid_pixels(part, nodata)
    if row.kind == "classes" and part.dtype.kind != "f":
        return to_row(part, invalid, row, path) if part.size else part.astype(row.dtype)
    kept = np.can_cast(part.dtype, row.dtype)
    values = part.astype(row.dtype if kept else np.float32)
    if invalid is not None and row.nodata is not None:
        values[invalid] = row.nodata
    return values


def _padded(
    part: np.ndarray, row: Modality, top: int, left: int, height: int, width: int
) -> np.ndarray:
    if part.shape[1:] == (height, width):
        return part
    fill = 0 if row.nodata is None else row.nodata
    whole = np.full((len(part), height, width), fill, dtype=part.dtype)
    whole[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return whole
