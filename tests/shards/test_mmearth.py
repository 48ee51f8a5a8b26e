"""MMEarth, against a tiny twin of its layout; what the arrays should become is written out by hand."""

import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.registry import modality
from configs.schema import MMEarthSourceConfig, ShardsConfig
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SampleError, ShardError, SourceError
from shards.sample import Sample, checked
from shards.sources import mmearth
from shards.sources.base import refs_of
from shards.sources.mmearth import MMEarthSource
from shards.sources.mmearth_parts import cloud_share
from shards.sources.tile_info import TileInfo
from shards.verify import verify
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mmearth(tmp_path_factory.mktemp("mmearth"))


def test_l1c_tiles_have_thirteen_bands_in_the_order_of_their_names(folder: Path) -> None:
    sample = sample_of(folder, 0)
    assert "S2L2A" not in sample.parts
    stored = tile_values(0)["sentinel2"]
    for number, band in enumerate(modality("S2L1C").bands):
        theirs = stored[S2.index(band.replace("B0", "B"))]
        np.testing.assert_array_equal(array(sample, "S2L1C")[number], theirs, err_msg=band)


def test_l2a_tiles_have_twelve_bands_without_cirrus(folder: Path) -> None:
    sample = sample_of(folder, 1)
    assert "S2L1C" not in sample.parts
    stored = tile_values(1)["sentinel2"]
    order = [0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 11, 12]
    np.testing.assert_array_equal(array(sample, "S2L2A"), stored[order])


def test_the_other_parts_are_what_the_file_has(folder: Path) -> None:
    sample, tile = sample_of(folder, 2), tile_values(2)
    expected = {
        "S1GRD": tile["sentinel1"][:2],
        "S1GRDdesc": tile["sentinel1"][4:6],
        "DEM": tile["aster"][:1],
        "slope": tile["aster"][1:],
        "DynamicWorld": tile["dynamic_world"],
        "CHM": tile["canopy_height_eth"][:1],
        "CHMstd": tile["canopy_height_eth"][1:],
        "WorldCover": tile["esa_worldcover"],
        "ERA5": tile["era5"],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(array(sample, name), values, err_msg=name)
    assert array(sample, "biome").tolist() == [0, 0, 1, *[0] * 11]
    assert np.flatnonzero(array(sample, "ecoregion")).tolist() == [802]
    assert array(sample, "coordinates").tolist() == [11.0, 47.0]
    assert sample.parts["date"] == "2019-07-03"
    meta = sample.meta
    assert (meta.lon, meta.lat, meta.crs, meta.transform) == (11.0, 47.0, "EPSG:32632", None)
    assert meta.times == {"S2L1C": "2019-07-03"}
    assert set(sample.parts) == {*expected, "S2L1C", "biome", "ecoregion", "coordinates", "date"}


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


def test_clouds_are_counted_among_observed_pixels() -> None:
    qa60 = np.array([[0, 1 << 10, 1 << 11, 1 << 9, 65535]], np.uint16)
    assert cloud_share(qa60, "l1c") == 2 / 4
    scl = np.array([[0, 255, 4, 8, 9, 10, 3, 11]], np.uint8)
    assert cloud_share(scl, "l2a") == 3 / 6
    assert cloud_share(np.full((1, 2), 255, np.uint8), "l2a") is None


def test_clouds_go_into_the_meta_data(tmp_path: Path) -> None:
    cloudy = np.zeros((1, PX, PX))
    cloudy[0, 0] = 1 << 11
    folder = make_mmearth(tmp_path, {(0, "sentinel2_cloudmask"): cloudy})
    assert sample_of(folder, 0).meta.cloud == 1 / PX
    assert sample_of(folder, 1).meta.cloud == 0
    bare = make_mmearth(tmp_path / "bare", without=("sentinel2_scl", "sentinel2_cloudmask"))
    assert sample_of(bare, 0).meta.cloud is None


def test_the_listing_has_places_splits_and_runs_of_rows(folder: Path) -> None:
    listing = source_of(folder, rows_per_block=4).listing()
    assert listing.column("key").to_pylist() == [f"t{row}" for row in range(6)]
    assert listing.column("block").to_pylist() == [0, 0, 0, 0, 1, 1]
    assert listing.column("lon").to_pylist() == [9.0 + row for row in range(6)]
    assert listing.column("split").to_pylist() == ["train"] * 3 + ["val"] * 3


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


def test_only_the_modalities_asked_for_are_read(folder: Path) -> None:
    sample = sample_of(folder, 0, modalities=("S2L2A", "S1GRD", "date"))
    assert set(sample.parts) == {"S1GRD", "date"}
    with pytest.raises(SourceError, match=r"has no NDVI; it has S2L1C, .*ERA5"):
        _ = source_of(folder, modalities=("NDVI",)).rows
    everything = source_of(folder)
    assert everything.fingerprint() == source_of(folder).fingerprint()
    assert everything.fingerprint() != source_of(folder, modalities=("DEM",)).fingerprint()


def test_datasets_that_are_not_there_are_no_rows(tmp_path: Path) -> None:
    folder = make_mmearth(tmp_path, without=("sentinel1", "era5"))
    assert not {"S1GRD", "S1GRDdesc", "ERA5"} & set(source_of(folder).rows)


def test_a_merged_file_reads_the_same(folder: Path, tmp_path: Path) -> None:
    merged, own = sample_of(make_mmearth(tmp_path, merged=True), 3), sample_of(folder, 3)
    assert merged.parts.keys() == own.parts.keys()
    for name in own.parts:
        np.testing.assert_array_equal(merged.parts[name], own.parts[name])


def test_a_forked_process_opens_the_file_for_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by: list[int] = []
    plain_open = mmearth._open
    monkeypatch.setattr(
        mmearth, "_open", lambda p: (opened_by.append(os.getpid()), plain_open(p))[1]
    )
    source = source_of(folder)
    refs = refs_of(source.listing())
    before = array(source.read(refs[0]), "S2L1C")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        opened_by.clear()
        sender.send((source.read(refs[0]).parts["S2L1C"], opened_by == [os.getpid()]))

    process = context.Process(target=child)
    process.start()
    assert receiver.poll(10)
    values, opened_it = receiver.recv()
    process.join(10)
    np.testing.assert_array_equal(values, before)
    assert opened_it


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


def mmearth_config(folder: Path, out: Path) -> ShardsConfig:
    source: dict[str, object] = {"type": "mmearth", "path": str(folder), "rows_per_block": 2}
    return source_config(source, out, splits="source", samples_per_shard=2)


def test_a_build_holds_what_the_file_held(tmp_path: Path) -> None:
    nothing = np.full((8, PX, PX), -np.inf)
    folder = make_mmearth(tmp_path / "in", {(1, "sentinel1"): nothing})
    result = build(mmearth_config(folder, tmp_path / "out"), quiet=True)
    assert result is not None
    assert (result.num_samples, result.num_quarantined) == (6, 0)
    report = verify(tmp_path / "out")
    assert report.ok, report.errors
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset.select("val")) == 3
    i = dataset.keys.index("t1")
    assert dataset.present("S1GRD").sum() == 5
    assert not dataset.present("S1GRD")[i]
    assert dataset.present("S2L2A").tolist() == [bool(int(k[1:]) % 2) for k in dataset.keys]
    expected = source_of(folder).read(refs_of(source_of(folder).listing())[1])
    stored = dataset.read(i, dataset.modalities)
    assert stored.keys() == expected.parts.keys()
    for name, part in expected.parts.items():
        np.testing.assert_array_equal(stored[name], part, err_msg=name)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(), _JSON, max_size=3), max_size=5),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_tile_info_is_read_as_json_is(
    tmp_path_factory: pytest.TempPathFactory, tiles: dict[str, Any], indent: int, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_tile_info.json"
    path.write_text(json.dumps(tiles, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert dict(TileInfo(path).items()) == tiles


def test_tiles_are_found_in_any_order_whatever_their_size(tmp_path: Path) -> None:
    path = tmp_path / "tile_info.json"
    # An entry beyond the first piece that is read, with a character that is cut there.
    tiles = {"a": {"x": "ä" * 5000}, "b": {"name": "a", "y": 1}, "c": {"z": [{}]}}
    path.write_text(json.dumps(tiles, ensure_ascii=False), encoding="utf-8")
    info = TileInfo(path)
    for tile in ("b", "c", "a", "a", "c", "b"):
        assert info.find(tile) == tiles[tile]


def test_a_cut_tile_info_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tile_info.json"
    path.write_text(json.dumps({"a": {"x": 1}, "b": {"y": 2}})[:-5])
    with pytest.raises(SourceError, match=r"tile_info\.json: damaged or cut at byte"):
        list(TileInfo(path).items())
