"""From the datasets of MMEarth to the parts of a sample: band orders, types, what is missing.

    dataset              part            what is left out or changed
    sentinel2            S2L1C | S2L2A   stored with B8A before B8; L2A tiles have no B10
    sentinel1            S1GRD           the ascending orbit's VV and VH; HH and HV (polar tiles) are
                         S1GRDdesc       left out, as no registry row has them; -inf is no data
    aster                DEM, slope
    dynamic_world        DynamicWorld    values that are no class are no data, as in MMEarth's loader
    canopy_height_eth    CHM, CHMstd     255 is no data; files declare int8, where it shows as -1 or,
                                         as HDF5 clips, as 127
    esa_worldcover       WorldCover      0 and 255 are no data (MMEarth's two code bases differ)
    biome, eco_region    biome, ecoregion
    era5                 ERA5            what is not finite is no data

A part without a single measurement is missing.
"""

from collections.abc import Callable

import numpy as np

from configs.registry import modality
from configs.schema.modality import Modality
from shards.errors import SampleError
from shards.sources.convert import to_row
from shards.stats import valid_pixels

DATASETS = {
    "S2L1C": "sentinel2",
    "S2L2A": "sentinel2",
    "S1GRD": "sentinel1",
    "DEM": "aster",
    "CHM": "canopy_height_eth",
    "S1GRDdesc": "sentinel1",
    "slope": "aster",
    "DynamicWorld": "dynamic_world",
    "CHMstd": "canopy_height_eth",
    "WorldCover": "esa_worldcover",
    "biome": "biome",
    "ecoregion": "eco_region",
    "ERA5": "era5",
}
NUM_BANDS = {
    **{"sentinel2": 13, "sentinel1": 8, "aster": 2, "dynamic_world": 1, "canopy_height_eth": 2},
    **{"esa_worldcover": 1, "biome": 14, "eco_region": 846, "era5": 12},
    **{"sentinel2_cloudmask": 1, "sentinel2_scl": 1},
}
OPTICAL = {"l1c": "S2L1C", "l2a": "S2L2A"}

_S2_STORED = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B8A",
    "B08",
    "B09",
    "B10",
    "B11",
    "B12",
)
_S1_STORED = ("VV", "VH", "HH", "HV")
_QA60_CLOUDS = 1 << 10 | 1 << 11
_QA60_NODATA = 65535
_SCL_CLOUDS = (8, 9, 10)
_SCL_NODATA = (0, 255)


def part_of(name: str, values: np.ndarray, where: str) -> np.ndarray | None:
    """The part `name` made of a tile's values in its dataset; None when all of it is missing.

    `values` are (C, H, W), or (C,) for vectors. Raises SampleError for values that cannot be kept.
    """
    row = modality(name)
    part = _MAKERS[name](values, row, where)
    return part if part is not None and valid_pixels(part, row).any() else None


def cloud_share(values: np.ndarray, s2_type: str) -> float | None:
    """The share of cloudy pixels among those observed, by QA60 (L1C) or the scene class (L2A)."""
    if s2_type == "l2a":
        observed = ~np.isin(values, _SCL_NODATA)
        cloudy = np.isin(values, _SCL_CLOUDS)
    else:
        observed = values != _QA60_NODATA
        cloudy = (values & _QA60_CLOUDS) != 0
    return float((cloudy & observed).sum() / observed.sum()) if observed.any() else None


def _optical(values: np.ndarray, row: Modality, where: str) -> np.ndarray:
    return to_row(values[[_S2_STORED.index(band) for band in row.bands]], None, row, where)


def _radar(first: int) -> "_Maker":
    def make(values: np.ndarray, row: Modality, where: str) -> np.ndarray:
        bands = values[[first + _S1_STORED.index(band) for band in row.bands]]
        return to_row(bands, ~np.isfinite(bands), row, where)

    return make


def _band(number: int) -> "_Maker":
    return lambda values, row, where: to_row(values[number : number + 1], None, row, where)


def _canopy(number: int) -> "_Maker":
    def make(values: np.ndarray, row: Modality, where: str) -> np.ndarray:
        band = values[number : number + 1]
        invalid = (band < 0) | (band == 127) if band.dtype == np.int8 else ~(band < 255)
        return to_row(band, invalid, row, where)

    return make


def _classes(values: np.ndarray, row: Modality, where: str) -> np.ndarray:
    known = np.isin(values, [entry.value for entry in row.classes])
    return to_row(np.where(known, values, 0), None, row, where)


def _one_hot(values: np.ndarray, row: Modality, where: str) -> np.ndarray | None:
    ones = values == 1
    if ones.sum() > 1:
        raise SampleError(f"{where}: {row.name} is one-hot, {ones.sum()} classes are set")
    return ones.astype(row.dtype) if ones.any() else None


def _climate(values: np.ndarray, row: Modality, where: str) -> np.ndarray:
    return to_row(values, ~np.isfinite(values), row, where)


_Maker = Callable[[np.ndarray, Modality, str], np.ndarray | None]
_MAKERS: dict[str, _Maker] = {
    "S2L1C": _optical,
    "S2L2A": _optical,
    "S1GRD": _radar(0),
    "S1GRDdesc": _radar(4),
    "DEM": _band(0),
    "slope": _band(1),
    "DynamicWorld": _classes,
    "CHM": _canopy(0),
    "CHMstd": _canopy(1),
    "WorldCover": _classes,
    "biome": _one_hot,
    "ecoregion": _one_hot,
    "ERA5": _climate,
}
