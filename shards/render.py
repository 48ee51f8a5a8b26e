"""Maps as pictures: what a band combination, a colour scale or a class legend makes of an array.

Display bands, ranges, colour maps and class colours come from the registry. Pixels without a
measurement are mid-grey, in every modality alike.
"""

from collections.abc import Sequence

import numpy as np

from configs.schema.modality import Modality
from shards.stats import valid_pixels

NODATA_GREY = 128
_PERCENTILES = (2, 98)


def render_map(
    array: np.ndarray, modality: Modality, *, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """An RGB picture of one map.

    Args:
        array: (C, H, W) in the modality's bands and unit; any numeric type.
        modality: its registry row.
        value_range: values shown as darkest and brightest; by default the row's own range, or the
            2nd and 98th percentile of the shown bands together (so that colours keep their hue).

    Returns:
        uint8 (H, W, 3); of several class maps, such as two dates, (H, maps * W, 3), side by side.
    """
    if modality.kind == "classes":
        return _render_classes(np.hstack(list(array[_band_numbers(modality)])), modality)
    shown = _displayed(array, modality)
    low, high = value_range or display_range([array], modality)
    valid = np.all(valid_pixels(array, modality)[_band_numbers(modality)], axis=0)
    scaled = np.clip((np.nan_to_num(shown) - low) / max(high - low, 1e-12), 0, 1)
    if modality.display.colormap and len(shown) == 1:
        picture = _colormap(modality.display.colormap)(scaled[0])[..., :3]
    else:
        picture = np.moveaxis(_three(scaled), 0, -1)
    picture = np.rint(picture * 255).astype(np.uint8)
    picture[~valid] = NODATA_GREY
    return picture


def render_maps(arrays: Sequence[np.ndarray], modality: Modality) -> list[np.ndarray]:
    """Pictures of several maps of one modality on one shared scale: truth beside prediction."""
    if modality.kind == "classes":
        return [render_map(array, modality) for array in arrays]
    shared = display_range(arrays, modality)
    return [render_map(array, modality, value_range=shared) for array in arrays]


def display_range(arrays: Sequence[np.ndarray], modality: Modality) -> tuple[float, float]:
    """The values shown as darkest and brightest when these maps stand side by side."""
    if modality.display.range:
        return modality.display.range
    bands = _band_numbers(modality)
    values = [a[bands][valid_pixels(a, modality)[bands]] for a in arrays]
    joined = np.concatenate(values).astype(np.float64)
    if joined.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(joined, _PERCENTILES)
    return float(low), float(high)


def class_colors(modality: Modality) -> np.ndarray:
    """Colour of each class value, the nodata class in grey: uint8 (num_classes, 3)."""
    colors = np.full((modality.num_classes, 3), NODATA_GREY, np.uint8)
    for entry in modality.classes:
        if entry.value != modality.nodata:
            colors[entry.value] = list(bytes.fromhex(entry.color[1:]))
    return colors


def _render_classes(values: np.ndarray, modality: Modality) -> np.ndarray:
    # Predictions may be any number; what is no class is shown like nodata, not as a crash.
    known = (values >= 0) & (values < modality.num_classes)
    picture = class_colors(modality)[np.where(known, values, 0).astype(np.int64)]
    picture[~known] = NODATA_GREY
    return picture


def _band_numbers(modality: Modality) -> list[int]:
    return [modality.bands.index(b) for b in modality.display.bands or modality.bands[:1]]


def _displayed(array: np.ndarray, modality: Modality) -> np.ndarray:
    return array[_band_numbers(modality)].astype(np.float64)


def _three(bands: np.ndarray) -> np.ndarray:
    """One band as grey, two as first, second, first (the usual VV, VH composite), three as RGB."""
    order = {1: [0, 0, 0], 2: [0, 1, 0]}.get(len(bands), [0, 1, 2])
    return bands[order]


def _colormap(name: str):
    import matplotlib

    return matplotlib.colormaps[name]
