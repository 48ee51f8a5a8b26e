"""The pixels of an open GeoTIFF, as its header says they are meant.

- Bands go by their descriptions where these are the registry's names in another order: `B08`, `B8`, `8`
  and `08 - NIR` are one band. Descriptions that name none of the row's bands ("Band 1") say nothing.
- Pixels that the file's mask leaves out carry no measurement, as those of its nodata value.
- Scale and offset are applied, but for digital numbers: those are what is stored, by definition.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.sources.convert import invalid_pixels, to_row

_NUMBERED = re.compile(r"(?:B?0*)(\d+A?)(?: - .*)?", re.IGNORECASE)
_DIGITAL_NUMBERS = "DN"


def read_pixels(file: Any, row: Modality, where: str, window: Any = None) -> np.ndarray:
    """What an open rasterio file, or a rasterio window of it, holds as the row has it: (C, H, W).

    Raises SampleError, which begins with `where`, for other bands and for values that would be lost.
    """
    order = band_order(file, row, where, SampleError)
    pixels = file.read(order, window=window)
    invalid = invalid_pixels(pixels, file.nodata)
    masked = _masked(file, window)
    if masked is not None:
        # One mask for all bands.
        masked = np.broadcast_to(masked, pixels.shape)
        invalid = masked if invalid is None else invalid | masked
    scales = np.array([file.scales[i - 1] for i in order])
    offsets = np.array([file.offsets[i - 1] for i in order])
    if row.unit == _DIGITAL_NUMBERS or (np.all(scales == 1) and np.all(offsets == 0)):
        return to_row(pixels, invalid, row, where)
    values = pixels * scales[:, None, None] + offsets[:, None, None]
    try:
        return to_row(values, invalid, row, where)
    except SampleError as error:
        raise SampleError(
            f"{error}, once its scale {scales[0]:g} and offset {offsets[0]:g} are applied; write values "
            f"in {row.name}'s unit ({row.unit}), or, if the stored ones are, remove scale and offset "
            "(gdal_edit.py -scale 1 -offset 0 FILE)"
        ) from error


def band_order(
    file: Any, row: Modality, where: str, error: type[SampleError | SourceError]
) -> list[int]:
    """The file's band numbers, from 1, in the row's order.

    Raises `error` for another number of bands, and for descriptions that name some of the row's bands
    and something else beside them.
    """
    if file.count != row.num_bands:
        raise error(
            f"{where}: {row.name} needs {row.num_bands} bands ({', '.join(row.bands)}), "
            f"this file has {file.count}; write those bands in that order, or leave the "
            "modality out of the source"
        )
    told = [name or "" for name in file.descriptions]
    found, wanted = [band_key(name) for name in told], [band_key(name) for name in row.bands]
    if not _names_bands(told, found, wanted):
        return list(range(1, row.num_bands + 1))
    if sorted(found) != sorted(wanted):
        raise error(
            f"{where}: {row.name} needs the bands {', '.join(row.bands)}, this file describes its own as "
            f"{', '.join(told)}; write those bands, or correct the descriptions or leave them out"
        )
    return [found.index(key) + 1 for key in wanted]


def _names_bands(told: Sequence[str], found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether descriptions say which bands these are, one and all."""
    counted = [str(number) for number in range(1, len(told) + 1)]
    # 1, 2, 3, ... counts bands and names none: S2L2A has a 12th band, and no band 10.
    return all(told) and list(told) != counted and not set(found).isdisjoint(wanted)


def band_key(name: str) -> str:
    """What `B08`, `B8`, `8` and `08 - NIR` call alike; other names without their case."""
    match = _NUMBERED.fullmatch(name.strip())
    return match[1].upper() if match else name.strip().lower()


def _masked(file: Any, window: Any) -> np.ndarray | None:
    """Pixels (H, W) that a mask beside the bands leaves out; None where there is no such mask."""
    flags = {flag.name for flag in file.mask_flag_enums[0]}
    # A nodata value makes a mask too, which says no more than the value.
    if "per_dataset" not in flags or not flags.isdisjoint({"nodata", "alpha"}):
        return None
    return file.read_masks(1, window=window) == 0
