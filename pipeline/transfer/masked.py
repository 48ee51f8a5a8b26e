"""What was measured: by the file's mask where a modality has no nodata, and by a value that a task names."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Modality
from pipeline.generate.rasters import Raster, opened
from shards.sources.convert import invalid_pixels


class _Masked:
    """NaN where the file's nodata value, mask or alpha band says so, and beyond its edges."""

    def __init__(self, raster: Raster, file: Any):
        self._raster, self._file = raster, file
        self.grid, self.path = raster.grid, raster.path

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        from rasterio.windows import Window

        part = self._raster.read(top, left, height, width).astype(np.float32)
        rows = slice(max(0, top), min(top + height, self._file.height))
        columns = slice(max(0, left), min(left + width, self._file.width))
        there = np.zeros(part.shape, dtype=bool)
        if rows.start < rows.stop and columns.start < columns.stop:
            found = self._file.read_masks(window=Window.from_slices(rows, columns)) > 0
            at = slice(rows.start - top, rows.stop - top)
            there[:, at, columns.start - left : columns.stop - left] = found
        part[~there] = np.nan
        return part


class _Told:
    """A value that stands for no measurement, whatever the file says: NaN or the modality's nodata."""

    def __init__(self, raster: Raster, nodata: float, row: Modality):
        self._raster, self._nodata, self._row = raster, nodata, row
        self.grid, self.path = raster.grid, raster.path

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        part = self._raster.read(top, left, height, width)
        invalid = invalid_pixels(part, self._nodata)
        if self._row.nodata is None:
            part = part.astype(np.float32)
        if invalid is not None:
            part[invalid] = np.nan if self._row.nodata is None else self._row.nodata
        return part


@contextmanager
def measured_raster(path: Path, row: Modality, nodata: float | None = None) -> Iterator[Raster]:
    """A map of this modality, `nodata` being no measurement. Raises RunError for a file that is not one."""
    with _masked(path, row) as raster:
        yield raster if nodata is None else _Told(raster, nodata, row)


@contextmanager
def _masked(path: Path, row: Modality) -> Iterator[Raster]:
    with opened(path, row) as raster:
        if row.nodata is not None or path.suffix == ".npy":
            yield raster
            return
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
        with file:
            yield _Masked(raster, file)
