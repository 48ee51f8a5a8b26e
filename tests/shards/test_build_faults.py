"""What cannot be read or stored is tried again, left out, told and bounded."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from shards.build import build
from shards.dataset import open_dataset
from shards.fill import Task, fill_shard, open_site
from shards.plan import plan
from shards.sample import Sample
from shards.sources.base import SampleRef
from shards.sources.geotiff import GeoTiffSource
from shards.verify import verify
from tests.shards.helpers import (
    command_for,
    config_for,
    contents,
    damage,
    make_collection,
    quarantine,
    run_shards,
    write_tiff,
)


def test_an_unusable_part_clears_its_bit_and_is_told_with_its_reason(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    damage(source / "S2L2A" / "place3.tif")
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 6
    i = dataset.keys.index("place3")
    assert not dataset.present("S2L2A")[i]
    assert set(dataset.read(i, dataset.modalities)) == {"DEM", "LULC", "coordinates"}
    (fault,) = quarantine(tmp_path / "out")
    assert (fault["key"], fault["part"]) == ("place3", "S2L2A")
    assert "S2L2A/place3.tif" in fault["reason"]


def test_an_unusable_sample_is_left_out_with_its_reason(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    write_tiff(source / "DEM" / "place3.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 5
    assert "place3" not in dataset.keys
    (fault,) = quarantine(tmp_path / "out")
    assert (fault["key"], fault["part"]) == ("place3", "")
    assert "do not show the same place" in fault["reason"]
    # The samples behind it move up: slots of a shard count on without a hole.
    for split, shard in dataset.shards:
        slots = [dataset.location(i)[2] for i in dataset.shard_samples(split, shard)]
        assert slots == list(range(len(slots)))


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=12)
    damage(source / "DEM" / "place7.tif")
    write_tiff(source / "DEM" / "place3.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    write_tiff(source / "DEM" / f"{'long' * 24}.tif", np.ones((1, 24, 24), np.int16))
    config = config_for(source, tmp_path / "out", max_bad=9, splits={"train": 1.0})
    made = plan(GeoTiffSource(config.source).listing(), config)  # type: ignore[arg-type]
    found = []
    for threads in (1, 2, 5):
        out = tmp_path / str(threads)
        site = dataclasses.replace(
            open_site(config.model_copy(update={"out": out})), threads=threads
        )
        for shard in made.shards:
            fill_shard(site, Task(shard, made.refs(shard)), lambda: None)
        found.append(contents(out))
    assert found[0] == found[1] == found[2]


def test_a_sample_that_cannot_be_stored_is_left_out_too(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=2)
    write_tiff(source / "DEM" / f"{'long' * 24}.tif", np.ones((1, 24, 24), np.int16))
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    assert sorted(open_dataset(tmp_path / "out").keys) == ["place0", "place1"]
    assert "shorter key" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_a_shard_may_end_up_empty(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=3)
    write_tiff(source / "DEM" / "place1.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    build(config_for(source, tmp_path / "out", max_bad=1, samples_per_shard=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset.shards), dataset.num_samples) == (3, 2)
    assert all("DEM" in dataset.read(i, ["DEM"]) for i in range(2))
    assert len({dataset.location(i)[:2] for i in range(2)}) == 2
    assert verify(tmp_path / "out").ok


def test_too_many_unusable_samples_end_the_build_and_keep_the_rest(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    for number in (3, 7):
        damage(source / "DEM" / f"place{number}.tif")
    command = command_for(source, tmp_path / "out")
    failed = run_shards(*command, "max_bad=1")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: more than max_bad=1 samples and parts are unusable")
    assert "DEM/place" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    kept = contents(tmp_path / "out")
    build(config_for(source, tmp_path / "out", max_bad=2), quiet=True)
    tars = {n: b for n, b in kept.items() if n.endswith(".tar")}
    assert tars
    assert tars.items() <= contents(tmp_path / "out").items()


def test_a_sample_that_reads_at_the_second_try_is_kept(
    collection: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shards.sources.geotiff import GeoTiffSource

    read, failed = GeoTiffSource.read, set()

    def flaky(self: GeoTiffSource, ref):
        if ref.key not in failed:
            failed.add(ref.key)
            raise OSError("input/output error")
        return read(self, ref)

    monkeypatch.setattr(GeoTiffSource, "read", flaky)
    build(config_for(collection, tmp_path / "set"), quiet=True)
    assert contents(tmp_path / "set") == contents(built)


def test_a_sample_whose_second_reading_fails_keeps_what_the_first_one_gave(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = GeoTiffSource.read, set()

    def flaky(self: GeoTiffSource, ref: SampleRef) -> Sample:
        sample = read(self, ref)
        if ref.key != "place2":
            return sample
        if ref.key in seen:
            raise OSError("input/output error")
        seen.add(ref.key)
        return dataclasses.replace(
            sample,
            parts={n: p for n, p in sample.parts.items() if n != "DEM"},
            faults={"DEM": "input/output error"},
        )

    monkeypatch.setattr(GeoTiffSource, "read", flaky)
    build(config_for(collection, tmp_path / "set", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "set")
    assert "S2L2A" in dataset.read(dataset.keys.index("place2"), dataset.modalities)
    assert [(f["key"], f["part"]) for f in quarantine(tmp_path / "set")] == [("place2", "DEM")]
