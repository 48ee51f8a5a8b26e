"""What deserves a look in the values of one part."""

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.files import raw
from shards.stats import valid_pixels


def strange_values(array: np.ndarray, row: Modality) -> list[str]:
    """What deserves a look in an array of the right type: nothing, or phrases."""
    if not row.is_map:
        low, high = row.valid_range or (-np.inf, np.inf)
        # A row with a nodata value allows for it; one without has nothing that may be missing.
        values = array if row.nodata is None else array[valid_pixels(array, row)]
        inside = np.isfinite(values) & (values >= low) & (values <= high)
        return [] if inside.all() else ["values out of range"]
    found = []
    valid = valid_pixels(array, row)
    values = array if valid.all() else array[valid]
    if values.size == 0:
        return ["no valid pixel"]
    if array.dtype.kind == "f" and np.isinf(array).any():
        found.append("infinite values")
    low, high = values.min(), values.max()
    if row.valid_range and (low < row.valid_range[0] or high > row.valid_range[1]):
        found.append(f"values outside {row.valid_range[0]:g} .. {row.valid_range[1]:g} {row.unit}")
    if row.kind == "image" and row.num_bands > 1:
        # One class or one height over a whole tile is a plain or a lake; one radiance is a fault.
        if low == high:
            found.append("a constant image")
        elif twins := _identical_bands(array, valid, row):
            found.append(f"identical bands ({', '.join(twins)})")
    return found


def _identical_bands(array: np.ndarray, valid: np.ndarray, row: Modality) -> list[str]:
    """The first bands that are bit for bit the same, those that vary; none or two and more."""
    bands: dict[int, list[int]] = {}
    for c, band in enumerate(np.ascontiguousarray(array)):
        bands.setdefault(xxhash.xxh3_64_intdigest(raw(band)), []).append(c)
    for same in bands.values():
        values = array[same[0]][valid[same[0]]]
        if len(same) > 1 and values.size and values.min() < values.max():
            return [row.bands[c] for c in same]
    return []
