"""A file's values -> the values of a registry row, where nothing is lost on the way."""

import math
from pathlib import Path

import numpy as np

from configs.schema.modality import Modality
from shards.errors import SampleError


def invalid_pixels(pixels: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Pixels the file marks as without measurement; NaN counts as such where it cannot be kept."""
    invalid = np.isnan(pixels) if pixels.dtype.kind == "f" else None
    if nodata is not None and not math.isnan(nodata):
        # A file's type may not hold its nodata value (-99999 in int16): then nothing is marked.
        with np.errstate(over="ignore"):
            marked = pixels == nodata
        invalid = marked if invalid is None else invalid | marked
    return invalid


def to_row(
    pixels: np.ndarray, invalid: np.ndarray | None, row: Modality, where: str | Path
) -> np.ndarray:
    """The same values in the registry's type, nodata replaced (float64 -> float32 rounds).

    `where` names the file in errors. Raises SampleError if a value would be lost.
    """
    target = np.dtype(row.dtype)
    if invalid is None or row.nodata is None or not invalid.any():
        if np.can_cast(pixels.dtype, target):
            # Nothing to replace and nothing that could be lost: most maps of most sources.
            return np.ascontiguousarray(pixels, target)
        invalid = np.zeros(pixels.shape, bool)
    values = np.where(invalid, pixels.dtype.type(0), pixels)
    if target.kind in "iu":
        bounds = np.iinfo(target)
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise SampleError(f"{where}: {row.name} is {target}, the file has fractions (or NaN)")
        if values.min() < bounds.min or values.max() > bounds.max:
            raise SampleError(
                f"{where}: values {values.min():g} .. {values.max():g} do not fit into "
                f"{row.name}'s {target} ({bounds.min} .. {bounds.max})"
            )
        converted = values.astype(target)
    else:
        with np.errstate(over="ignore"):
            converted = values.astype(target)
        if np.isinf(converted).sum() > (np.isinf(values).sum() if values.dtype.kind == "f" else 0):
            raise SampleError(f"{where}: values too large for {row.name}'s {target}")
    if invalid.any():
        converted[invalid] = row.nodata
    return np.ascontiguousarray(converted)
