"""Rasters of modalities that have no nodata: what was measured is then told by the file's own mask."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Modality
from pipeline.generate.rasters import Raster, opened


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


@contextmanager
def measured_raster(path: Path, row: Modality) -> Iterator[Raster]:
    """A map of this modality. Raises RunError for a file that is not one."""
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
