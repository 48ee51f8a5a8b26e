"""Modalities of another source, added to a finished data set."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.add import add_modalities
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.extra import hold_extra
from shards.verify import verify
from tests.shards.helpers import (
    command_for,
    config_for,
    contents,
    make_collection,
    move_out,
    run_json,
    run_shards,
    source_config,
    stacked,
    tiny_array,
    write_tiff,
)
from tests.shards.webdataset_twin import npy, write_tar


def test_a_modality_of_another_source_is_added_by_key(collection: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(collection, tmp_path / "old"))
    late = tmp_path / "late"
    move_out(old, "LULC", late)
    (late / "LULC" / "place3.tif").write_bytes(b"no tiff")
    (late / "LULC" / "place2.tif").unlink()
    out = tmp_path / "set"
    build(config_for(old, out), quiet=True)
    before = contents(out)
    command = [*command_for(late, out)[1:], "--json"]
    refused = run_shards("add-modality", str(out), *command)
    assert refused.returncode == 2
    assert "place3: " in refused.stderr
    done = run_shards("add-modality", str(out), *command, "max_bad=1", "--modalities", "LULC")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["added"][0]["present"] == 5
    assert before.items() <= contents(out).items()
    dataset = open_dataset(out)
    assert list(dataset.modalities) == ["S2L2A", "S1RTC", "DEM", "LULC", "coordinates", "date"]
    assert dataset.extras == ()
    for i, key in enumerate(dataset.keys):
        number = int(key.removeprefix("place"))
        part = dataset.read(i, ["LULC"])
        if number % 4 == 1 or number in (2, 3):
            assert part == {}
        else:
            np.testing.assert_array_equal(part["LULC"], tiny_array("LULC", number))
    assert dataset.class_counts["LULC"].sum() == stacked(dataset, "LULC", "train").size
    assert verify(out).errors == []
    described = run_json("inspect", out)
    assert [m["modality"] for m in described["modalities"]].count("LULC") == 1


def test_max_bad_bounds_the_whole_addition_however_often_it_is_stopped(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=8)
    late = tmp_path / "late"
    move_out(source, "DEM", late)
    out = tmp_path / "set"
    build(config_for(source, out, samples_per_shard=1, splits={"train": 1.0}), quiet=True)
    for number in (1, 4, 6):
        (late / "DEM" / f"place{number}.tif").write_bytes(b"no tiff")
    for _ in range(3):
        with pytest.raises(ShardError, match="more than max_bad=2 parts"):
            add_modalities(open_dataset(out), config_for(late, out, max_bad=2), quiet=True)
    (added,) = add_modalities(open_dataset(out), config_for(late, out, max_bad=3), quiet=True)
    assert {fault.key for fault in added.faults} == {"place1", "place4", "place6"}
    assert added.num_present == 5


@pytest.mark.parametrize(
    ("place", "px", "told"),
    [
        ({"east_m": 900000.0, "north_m": 1000000.0}, 24, r"bounds 4e\+06 apart"),
        ({"east_m": 330000.0, "pixel_m": 20.0}, 24, "bounds 240 apart"),
        ({"east_m": 330000.0}, 30, "24 x 24 and 30 x 30 pixels of 10 m"),
        ({"east_m": 330000.0, "crs": "EPSG:32634"}, 24, "CRS EPSG:32633 and EPSG:32634"),
    ],
)
def test_another_place_by_the_same_key_is_a_fault(
    tmp_path: Path, place: dict[str, Any], px: int, told: str
) -> None:
    source = make_collection(tmp_path / "in", num=4)
    late = tmp_path / "late"
    move_out(source, "DEM", late)
    out = tmp_path / "set"
    build(config_for(source, out), quiet=True)
    write_tiff(late / "DEM" / "place1.tif", np.ones((1, px, px), np.int16), **place)
    with pytest.raises(ShardError, match=f"place1: not the place of the data set: {told}"):
        add_modalities(open_dataset(out), config_for(late, out), quiet=True)
    (added,) = add_modalities(open_dataset(out), config_for(late, out, max_bad=1), quiet=True)
    assert (added.num_present, [fault.key for fault in added.faults]) == (3, ["place1"])


def test_two_that_add_the_same_do_not_write_at_once(tmp_path: Path) -> None:
    source, late, out = make_collection(tmp_path / "in", num=2), tmp_path / "late", tmp_path / "set"
    move_out(source, "DEM", late)
    build(config_for(source, out), quiet=True)
    dataset = open_dataset(out)
    with hold_extra(dataset, "DEM") as mine:
        assert mine
        with pytest.raises(ShardError, match=r"another process is adding DEM to .*wait for it"):
            add_modalities(dataset, config_for(late, out), quiet=True)
    (added,) = add_modalities(dataset, config_for(late, out), quiet=True)
    assert added.num_present == 2


@pytest.mark.parametrize(
    ("place", "num_bad"),
    [
        ({}, 0),
        ({"lon": 12.5, "lat": 45.12}, 0),
        ({"lon": 12.7, "lat": 45.12}, 1),
        ({"lon": -167.5, "lat": 45.12}, 1),
    ],
)
def test_places_without_a_transform_may_be_rough(
    tmp_path: Path, place: dict[str, float], num_bad: int
) -> None:
    source, out = make_collection(tmp_path / "in", num=1), tmp_path / "set"
    shutil.rmtree(source / "DEM")
    build(config_for(source, out, splits={"train": 1.0}), quiet=True)
    meta = open_dataset(out).meta(0)
    assert (meta.lon, meta.lat) == pytest.approx((12.46, 45.12), abs=0.02)
    members = [
        ("place0.npy", npy(tiny_array("DEM", 0))),
        ("place0.json", json.dumps(place).encode()),
    ]
    tar = write_tar(tmp_path / "late.tar", members)
    told = {"type": "webdataset", "urls": [str(tar)], "members": {"npy": "DEM", "json": "meta"}}
    config = source_config(told, out, max_bad=num_bad)
    (added,) = add_modalities(open_dataset(out), config, ["DEM"], quiet=True)
    assert len(added.faults) == num_bad
    assert added.num_present == 1 - num_bad


def test_a_damaged_note_beside_an_added_shard_is_told(tmp_path: Path, collection: Path) -> None:
    source = Path(shutil.copytree(collection, tmp_path / "in"))
    late = tmp_path / "late"
    move_out(source, "LULC", late)
    out = tmp_path / "set"
    build(config_for(source, out), quiet=True)
    add_modalities(open_dataset(out), config_for(late, out), quiet=True)
    (out / "extra" / "LULC" / "train" / "shard-000000.json").write_text("{}")
    with pytest.raises(ShardError, match=r"shard-000000\.json.*remove it with its \.tar"):
        add_modalities(open_dataset(out), config_for(late, out), ["LULC"], quiet=True)
