"""MMEarth, against a tiny twin of its layout; what the arrays should become is written out by hand."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from configs.registry import modality
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SourceError
from shards.sources import mmearth
from shards.sources.base import refs_of
from shards.sources.mmearth_parts import cloud_share
from shards.verify import verify
from tests.shards.mmearth_twin import (
    PX,
    S2,
    array,
    make_mmearth,
    mmearth_config,
    sample_of,
    source_of,
    tile_values,
)


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


def test_only_the_modalities_asked_for_are_read(folder: Path) -> None:
    sample = sample_of(folder, 0, modalities=("S2L2A", "S1GRD", "date"))
    assert set(sample.parts) == {"S1GRD", "date"}
    with pytest.raises(SourceError, match=r"has no NDVI; it has S2L1C, .*ERA5"):
        _ = source_of(folder, modalities=("NDVI",)).rows
    everything = source_of(folder)
    assert everything.fingerprint() == source_of(folder).fingerprint()
    assert everything.fingerprint() != source_of(folder, modalities=("DEM",)).fingerprint()


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
