"""What becomes of what an MMEarth folder lacks, marks as no data, contradicts or has damaged."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from configs.registry import modality
from shards.build import build
from shards.errors import SampleError, ShardError, SourceError
from shards.sources.base import refs_of
from tests.shards.mmearth_twin import (
    DTYPES,
    NAME,
    PX,
    array,
    make_mmearth,
    mmearth_config,
    sample_of,
    source_of,
    tile_values,
)


def test_a_missing_orbit_is_a_missing_part(tmp_path: Path) -> None:
    radar = tile_values(0)["sentinel1"]
    radar[:4] = -np.inf
    # Of the descending orbit one polarisation is missing, and a pixel of the other.
    radar[5] = -np.inf
    radar[4, 0, 0] = np.inf
    only_polar = np.full_like(radar, -np.inf)
    only_polar[2:4] = -20
    make_mmearth(tmp_path, {(0, "sentinel1"): radar, (1, "sentinel1"): only_polar})
    sample = sample_of(tmp_path, 0)
    assert "S1GRD" not in sample.parts
    descending = array(sample, "S1GRDdesc")
    assert np.isnan(descending[1]).all()
    assert np.argwhere(np.isnan(descending[0])).tolist() == [[0, 0]]
    np.testing.assert_array_equal(descending[0, 1:], radar[4, 1:])
    assert not {"S1GRD", "S1GRDdesc"} & set(sample_of(tmp_path, 1).parts)


def test_no_data_of_each_map_becomes_the_registrys(tmp_path: Path) -> None:
    tile = tile_values(0)
    # What 255 becomes in int8: a C cast, and HDF5 which clips.
    tile["canopy_height_eth"][0, 0, :2] = (-1, 127)
    tile["dynamic_world"][0, 0, :2] = (0, 10)
    tile["esa_worldcover"][0, 0, :3] = (0, 255, 96)
    tile["aster"][0, 0, 0] = -32768
    names = ("canopy_height_eth", "dynamic_world", "esa_worldcover", "aster")
    sample = sample_of(make_mmearth(tmp_path, {(0, n): tile[n] for n in names}), 0)
    canopy = array(sample, "CHM")
    assert np.argwhere(np.isnan(canopy)).tolist() == [[0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(canopy[0, 1:], tile["canopy_height_eth"][0, 1:])
    assert array(sample, "DynamicWorld")[0, 0, :2].tolist() == [0, 0]
    assert array(sample, "WorldCover")[0, 0, :3].tolist() == [0, 0, 0]
    assert array(sample, "WorldCover")[0, 1:].min() == 10
    assert array(sample, "DEM")[0, 0, 0] == modality("DEM").nodata


def test_what_has_no_measurement_at_all_is_missing(tmp_path: Path) -> None:
    nothing: dict[tuple[int, str], Any] = {
        (0, "canopy_height_eth"): np.full((2, PX, PX), 127),
        (0, "dynamic_world"): np.zeros((1, PX, PX)),
        (0, "esa_worldcover"): np.full((1, PX, PX), 255),
        (0, "sentinel2"): np.zeros((13, PX, PX)),
        (0, "era5"): np.full(12, np.inf),
        (0, "biome"): np.zeros(14),
    }
    sample = sample_of(make_mmearth(tmp_path, nothing), 0)
    assert not sample.faults
    left = {"S1GRD", "S1GRDdesc", "DEM", "slope", "ecoregion", "coordinates", "date"}
    assert set(sample.parts) == left


def test_canopy_heights_in_uint8_have_their_own_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DTYPES, "canopy_height_eth", "uint8")
    heights = np.full((2, PX, PX), 12)
    heights[0, 0, :2] = (255, 127)
    sample = sample_of(make_mmearth(tmp_path, {(0, "canopy_height_eth"): heights}), 0)
    assert np.isnan(array(sample, "CHM")[0, 0, 0])
    assert array(sample, "CHM")[0, 0, 1] == 127


def test_climate_keeps_what_is_finite(tmp_path: Path) -> None:
    climate = np.arange(12, dtype=np.float32)
    climate[[2, 5]] = (np.inf, np.nan)
    era5 = array(sample_of(make_mmearth(tmp_path, {(0, "era5"): climate}), 0), "ERA5")
    assert np.flatnonzero(np.isnan(era5)).tolist() == [2, 5]
    assert modality("ERA5").bands[7] == "curr_month_total_precip"


def test_two_biomes_are_a_fault_of_that_part_only(tmp_path: Path) -> None:
    sample = sample_of(make_mmearth(tmp_path, {(0, "biome"): np.ones(14)}), 0)
    assert list(sample.faults) == ["biome"]
    assert re.search(r"data_tiny_v001\.h5: row 0: .*14 classes are set", sample.faults["biome"])


def test_values_beyond_the_registrys_type_are_a_fault(tmp_path: Path) -> None:
    optical = np.full((13, PX, PX), 40000)
    sample = sample_of(make_mmearth(tmp_path, {(0, "sentinel2"): optical}), 0)
    assert "do not fit into S2L1C's int16" in sample.faults["S2L1C"]
    assert "S2L1C" not in sample.parts


def test_without_a_file_of_splits_there_are_none(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path)
    (folder / f"{NAME}_splits.json").unlink()
    assert "split" not in source_of(folder).listing().column_names


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"train": [0, 1], "val": [1]}, "row 1 is in train and val"),
        ({"train": [0, 6]}, "rows beyond the 6 of the file"),
        ([0, 1], "not the rows of splits"),
    ],
)
def test_splits_that_cannot_be_are_told(tmp_path: Path, splits: object, told: str) -> None:
    folder = make_mmearth(tmp_path)
    (folder / f"{NAME}_splits.json").write_text(json.dumps(splits))
    with pytest.raises(SourceError, match=f"_splits.json: {told}"):
        source_of(folder).listing()


def test_rows_in_no_split_are_kept_apart(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path)
    (folder / f"{NAME}_splits.json").write_text(json.dumps({"train": [0, 5]}))
    names = source_of(folder).listing().column("split").to_pylist()
    assert names == ["train", *["unassigned"] * 4, "train"]


def test_datasets_that_are_not_there_are_no_rows(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path, without=("sentinel1", "era5"))
    assert not {"S1GRD", "S1GRDdesc", "ERA5"} & set(source_of(folder).rows)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path)
    path = folder / f"{NAME}.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ShardError, match=r"data_tiny_v001\.h5: not readable as HDF5.*fetch it again"
    ):
        build(mmearth_config(folder, tmp_path / "out"), quiet=True)


def test_a_damaged_row_is_a_fault_of_that_row(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path)
    path = folder / f"{NAME}.h5"
    with h5py.File(path) as file:
        chunk = file["sentinel1"].id.get_chunk_info_by_coord((2, 0, 0, 0))
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    sample = sample_of(folder, 2)
    assert set(sample.faults) == {"S1GRD", "S1GRDdesc"}
    assert re.search(r"\.h5: row 2 of sentinel1 cannot be read", sample.faults["S1GRD"])
    assert "S2L1C" in sample.parts
    assert not sample_of(folder, 4).faults


def test_a_tile_that_nothing_is_told_about_is_unusable(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path)
    path = folder / f"{NAME}_tile_info.json"
    path.write_text(path.read_text().replace('"t4"', '"other"'))
    source = source_of(folder)
    listing = source.listing()
    assert listing.column("lon").to_pylist()[4] is None
    with pytest.raises(SampleError, match=r"tile_info\.json has no tile 't4'"):
        source.read(refs_of(listing)[4])


def test_a_wrong_folder_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no \.h5; write source\.path=FOLDER"):
        source_of(tmp_path)
    folder = make_mmearth(tmp_path / "two")
    (folder / "more.h5").touch()
    with pytest.raises(SourceError, match=r"has data_tiny_v001, more; .*source\.name=NAME"):
        source_of(folder)
    assert len(source_of(folder, name=NAME).rows) > 3
    (folder / f"{NAME}_tile_info.json").unlink()
    with pytest.raises(SourceError, match=r"_tile_info\.json: no such file"):
        source_of(folder, name=NAME).listing()


def test_a_dataset_of_another_shape_is_told(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path, without=("aster",))
    with h5py.File(folder / f"{NAME}.h5", "a") as file:
        file.create_dataset("aster", data=np.zeros((6, 1, PX, PX), np.int16))
    with pytest.raises(SourceError, match=r"aster is \(6, 1, 8, 8\), \(6, 2, \.\.\.\) expected"):
        _ = source_of(folder).rows
