"""A tiny twin of MMEarth's layout: the HDF5 file, what it tells of its tiles, and its splits."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from configs.schema import MMEarthSourceConfig, ShardsConfig
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.mmearth import MMEarthSource
from tests.shards.helpers import source_config

PX = 8
NAME = "data_tiny_v001"
# As they lie in the file.
S2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B10", "B11", "B12")
DTYPES = {
    **{"sentinel2": "uint16", "sentinel2_cloudmask": "uint16", "sentinel2_scl": "uint8"},
    **{"sentinel1": "float32", "aster": "int16", "dynamic_world": "uint8"},
    **{"canopy_height_eth": "int8", "esa_worldcover": "uint8", "era5": "float32"},
    **{"biome": "uint8", "eco_region": "uint16", "lat": "float32"},
}
MAPS = {
    **{"sentinel2": 13, "sentinel2_cloudmask": 1, "sentinel2_scl": 1, "sentinel1": 8, "aster": 2},
    **{"dynamic_world": 1, "canopy_height_eth": 2, "esa_worldcover": 1},
}
VECTORS = {"era5": 12, "biome": 14, "eco_region": 846, "lat": 2}


def tile_values(row: int) -> dict[str, np.ndarray]:
    """Every dataset's values of one tile, all of them there; odd rows are L2A."""
    rng = np.random.default_rng(row)
    l2a = row % 2 == 1
    values = {
        "sentinel2": rng.integers(1, 9000, (13, PX, PX)),
        "sentinel2_cloudmask": np.full((1, PX, PX), 0),
        "sentinel2_scl": np.full((1, PX, PX), 4 if l2a else 255),
        "sentinel1": rng.normal(-12, 3, (8, PX, PX)),
        "aster": rng.integers(0, 60, (2, PX, PX)),
        "dynamic_world": rng.integers(1, 10, (1, PX, PX)),
        "canopy_height_eth": rng.integers(0, 40, (2, PX, PX)),
        "esa_worldcover": rng.choice([10, 50, 95, 100], (1, PX, PX)),
        "era5": rng.normal(280, 5, 12),
        "biome": np.eye(14)[row % 14],
        "eco_region": np.eye(846)[800 + row],
        "lat": np.zeros(2),
    }
    if l2a:
        values["sentinel2"][S2.index("B10")] = 0
    return {name: array.astype(DTYPES[name]) for name, array in values.items()}


def make_mmearth(
    folder: Path,
    changes: dict[tuple[int, str], Any] | None = None,
    *,
    num: int = 6,
    without: tuple[str, ...] = (),
    merged: bool = False,
) -> Path:
    """A folder of `num` tiles; `changes` replaces a tile's values of a dataset.

    `merged` writes what joining two files gives: no chunks, and no S2_type in `metadata`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tiles = [tile_values(row) for row in range(num)]
    for (row, name), values in (changes or {}).items():
        tiles[row][name] = np.asarray(values).astype(DTYPES[name])
    with h5py.File(folder / f"{NAME}.h5", "w") as file:
        for name in (*MAPS, *VECTORS):
            if name not in without:
                data = np.stack([tile[name] for tile in tiles])
                layout = {"chunks": (1, *data.shape[1:]), "compression": "gzip"}
                file.create_dataset(name, data=data, **({} if merged else layout))
        fields = [("tile_id", "S100"), ("S2_type", "S10")]
        told = [(f"t{row}", "l2a" if row % 2 else "l1c") for row in range(num)]
        if merged:
            metadata = np.array([(tile,) for tile, _ in told], fields[:1])
            file.create_dataset("metadata", data=metadata)
        else:
            file.create_dataset("metadata", data=np.array(told, fields), chunks=(1,))
    info = {
        f"t{row}": {
            "S2_DATE": f"2019-07-0{1 + row % 9}",
            "S2_type": "l2a" if row % 2 else "l1c",
            "CRS": "EPSG:32632",
            "lat": 45.0 + row,
            "lon": 9.0 + row,
            "BANDS": {"sentinel2": list(S2), "sentinel1_asc": None},
        }
        for row in range(num)
    }
    (folder / f"{NAME}_tile_info.json").write_text(json.dumps({"t99": {"lat": 1.0}} | info))
    half = num // 2
    splits = {"train": list(range(half)), "val": list(range(half, num)), "test": []}
    (folder / f"{NAME}_splits.json").write_text(json.dumps(splits))
    return folder


def source_of(folder: Path, **options: Any) -> MMEarthSource:
    return MMEarthSource(MMEarthSourceConfig(path=folder, **options))


def sample_of(folder: Path, row: int, **options: Any) -> Sample:
    source = source_of(folder, **options)
    sample = source.read(refs_of(source.listing())[row])
    assert checked(sample, source.rows) == sample
    return sample


def array(sample: Sample, name: str) -> np.ndarray:
    part = sample.parts[name]
    assert isinstance(part, np.ndarray)
    return part


def mmearth_config(folder: Path, out: Path) -> ShardsConfig:
    source: dict[str, object] = {"type": "mmearth", "path": str(folder), "rows_per_block": 2}
    return source_config(source, out, splits="source", samples_per_shard=2)
