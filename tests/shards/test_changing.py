"""Commands that make something of a finished data set: stats, split, merge, add-modality, repair, bench."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.registry import statistics_set
from shards.build import build
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.extra import ExtraWriter
from shards.merge import merge
from shards.repair import repair
from shards.splitting import make_splitting
from shards.verify import verify
from tests.shards.helpers import (
    command_for,
    config_for,
    contents,
    make_collection,
    run_shards,
    tiny_array,
)
from tests.shards.test_dataset import flip_bit


def run(*arguments: str | Path) -> dict:
    done = run_shards(*map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stacked(dataset: Dataset, name: str, split: str | None) -> np.ndarray:
    """All measured values of a modality, band by band: [C, pixels]."""
    parts = [np.asarray(dataset.read(int(i), [name])[name]) for i in dataset.select(split, [name])]
    return np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1).astype(np.float64)


def test_stats_are_those_of_the_pixels_and_configs_can_name_them(
    dataset: Dataset, tmp_path: Path
) -> None:
    for split in ("train", "val", "all"):
        found = run("stats", dataset.path, "--split", split)
        values = stacked(dataset, "S2L2A", None if split == "all" else split)
        np.testing.assert_allclose(found["bands"]["S2L2A"]["mean"], values.mean(1))
        np.testing.assert_allclose(found["bands"]["S2L2A"]["std"], values.std(1))
        lulc = stacked(dataset, "LULC", None if split == "all" else split)
        assert sum(found["classes"]["LULC"]) == lulc.size
    path = tmp_path / "mine.yaml"
    run("stats", dataset.path, "--write", path)
    assert statistics_set(str(path))["DEM"].mean == dataset.statistics["DEM"].mean
    assert dataset.fingerprint in path.read_text()
    assert set(yaml.safe_load(path.read_text())["modalities"]) == {"S2L2A", "S1RTC", "DEM"}
    refused = run_shards("stats", str(dataset.path), "--split", "tset")
    assert (refused.returncode, "no split 'tset'" in refused.stderr) == (2, True)


def test_samples_are_dealt_out_anew_without_moving_a_byte(copy: Path) -> None:
    before = contents(copy)
    shares = "train=0.5,val=0.3,test=0.2"
    found = run("split", copy, "--name", "fold1", "--shares", shares, "--seed", "3")
    assert [row["split"] for row in found["splits"]] == ["train", "val", "test"]
    assert sum(row["samples"] for row in found["splits"]) == 10
    after = contents(copy)
    assert {n: b for n, b in after.items() if not n.startswith("splits/")} == before
    dataset = open_dataset(copy)
    parts = [dataset.select(s, splitting="fold1") for s in ("train", "val", "test")]
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))
    with pytest.raises(ShardError, match="no split 'none'"):
        dataset.select("none", splitting="fold1")
    with pytest.raises(ShardError, match=r"no splitting 'fold2' \(it has fold1\)"):
        dataset.select("train", splitting="fold2")
    again = make_splitting(dataset, "fold1", {"train": 0.5, "val": 0.3, "test": 0.2}, 0.25, 3)
    assert np.flatnonzero(again.split_of == 0).tolist() == parts[0].tolist()
    with pytest.raises(ShardError, match="choose another name"):
        make_splitting(dataset, "fold1", {"train": 1.0}, 0.25, 3)
    (copy / "splits" / "fold1.bin").unlink()
    with pytest.raises(ShardError, match="cannot be read"):
        open_dataset(copy).select("train", splitting="fold1")
    (copy / "splits" / "fold1.bin").write_bytes(bytes(10))
    with pytest.raises(ShardError, match="damaged"):
        open_dataset(copy).select("train", splitting="fold1")


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """Two data sets with different keys and modalities; places of the second lie elsewhere."""
    first = make_collection(tmp_path / "first", num=6)
    second = make_collection(tmp_path / "second", num=12)
    shutil.rmtree(second / "S1RTC")
    for number in range(6):
        for file in second.rglob(f"place{number}.tif"):
            file.unlink()
    for source, name in ((first, "a"), (second, "b")):
        build(config_for(source, tmp_path / name), quiet=True)
    return tmp_path / "a", tmp_path / "b"


def test_merged_data_sets_hold_every_sample_of_both(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "both"
    found = run("merge", out, *halves)
    assert found["samples"] == 12
    assert verify(out).errors == []
    both = open_dataset(out)
    assert both.split_names() == ("train", "val")
    for path in halves:
        member = open_dataset(path)
        for i, key in enumerate(member.keys):
            j = both.keys.index(key)
            assert both.location(j)[0] == member.location(i)[0]
            theirs, ours = (d.read(k, d.modalities) for d, k in ((member, i), (both, j)))
            assert theirs.keys() == ours.keys()
            for name, part in theirs.items():
                np.testing.assert_array_equal(part, ours[name])
    pixels = stacked(both, "DEM", "train")
    assert both.statistics["DEM"].mean[0] == pytest.approx(pixels.mean())
    assert both.statistics["DEM"].std[0] == pytest.approx(pixels.std())
    tar = next(out.rglob("*.tar"))
    assert tar.stat().st_nlink == 2
    assert merge(out, halves)["fingerprint"] == found["fingerprint"]
    with pytest.raises(ShardError, match="holds another data set"):
        merge(out, halves[:1])


def test_a_merge_refuses_repeated_keys_and_leaking_cells(
    halves: tuple[Path, Path], collection: Path, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match="keys come twice"):
        merge(tmp_path / "twice", [halves[0], halves[0]])
    source = Path(shutil.copytree(collection, tmp_path / "renamed"))
    for file in source.rglob("*.tif"):
        file.rename(file.with_name(f"x{file.name}"))
    build(config_for(source, tmp_path / "x", splits={"val": 1.0}), quiet=True)
    with pytest.raises(ShardError, match=r"lie in two splits.*--allow-leakage"):
        merge(tmp_path / "leaky", [halves[0], tmp_path / "x"])
    assert merge(tmp_path / "leaky", [halves[0], tmp_path / "x"], allow_leakage=True)


def test_a_modality_of_another_source_is_added_by_key(collection: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(collection, tmp_path / "old"))
    late = tmp_path / "late"
    late.mkdir()
    shutil.move(old / "LULC", late / "LULC")
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
    described = run("inspect", out)
    assert [m["modality"] for m in described["modalities"]].count("LULC") == 1


def test_repair_makes_damaged_shards_as_they_were(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    build(config_for(collection, out), quiet=True)
    whole = contents(out)
    flip_bit(out, "place4.S2L2A.b2")
    cut = sorted(out.rglob("*.tar"))[-1]
    cut.write_bytes(cut.read_bytes()[:-1024])
    found = run("repair", out)
    assert len(found["shards"]) == 2
    assert contents(out) == whole
    assert run("repair", out)["shards"] == []


def test_repair_without_its_source_changes_nothing_unless_asked_to_salvage(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    out = tmp_path / "set"
    build(config_for(source, out), quiet=True)
    shutil.rmtree(source)
    flip_bit(out, "place4.S2L2A.b2")
    damaged = contents(out)
    refused = run_shards("repair", str(out))
    assert refused.returncode == 2
    assert contents(out) == damaged
    old = open_dataset(out)
    done = repair(out, salvage=True)
    assert len(done.shards) == 1
    new = open_dataset(out)
    assert new.keys == old.keys
    i = new.keys.index("place4")
    assert not new.present("S2L2A")[i]
    assert new.present("S2L2A").sum() == old.present("S2L2A").sum() - 1
    assert set(new.read(i, ["DEM"])) == {"DEM"}
    assert verify(out).errors == []
    (line,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["part"] == "S2L2A"


def test_repair_names_damaged_extras(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", {})
    for split, shard in dataset.shards:
        parts = [np.arange(100) for _ in dataset.shard_samples(split, shard)]
        writer.write_shard(f"{split}/{shard}", parts)
    writer.commit()
    tar = copy / "extra" / "tok" / "train" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert repair(copy).extras == ["extra/tok/train/shard-000000"]


def test_bench_reads_the_same_samples_in_every_way(built: Path) -> None:
    found = run("bench", built, "--samples", "5", "--threads", "2", "--modalities", "S2L2A,DEM")
    assert found["modalities"] == ["S2L2A", "DEM"]
    assert len(found["ways"]) == 5
    assert all(way["samples_per_s"] > 0 and way["mb_per_s"] > 0 for way in found["ways"])
    refused = run_shards("bench", str(built), "--modalities", "S3")
    assert "no modality 'S3'" in refused.stderr
