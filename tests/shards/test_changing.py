"""Commands that make something of a finished data set: stats, split, bench."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.registry import statistics_set
from shards.codec import encode_npy
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.extra import ExtraWriter
from shards.measure import _raw
from shards.splitting import make_splitting
from tests.shards.helpers import (
    contents,
    run_json,
    run_shards,
    stacked,
)


def test_stats_are_those_of_the_pixels_and_configs_can_name_them(
    dataset: Dataset, tmp_path: Path
) -> None:
    for split in ("train", "val", "all"):
        found = run_json("stats", dataset.path, "--split", split)
        values = stacked(dataset, "S2L2A", None if split == "all" else split)
        np.testing.assert_allclose(found["bands"]["S2L2A"]["mean"], values.mean(1))
        np.testing.assert_allclose(found["bands"]["S2L2A"]["std"], values.std(1))
        lulc = stacked(dataset, "LULC", None if split == "all" else split)
        assert sum(found["classes"]["LULC"]) == lulc.size
    path = tmp_path / "mine.yaml"
    run_json("stats", dataset.path, "--write", path)
    assert statistics_set(str(path))["DEM"].mean == dataset.statistics["DEM"].mean
    assert dataset.fingerprint in path.read_text()
    assert set(yaml.safe_load(path.read_text())["modalities"]) == {"S2L2A", "S1RTC", "DEM"}
    refused = run_shards("stats", str(dataset.path), "--split", "tset")
    assert (refused.returncode, "no split 'tset'" in refused.stderr) == (2, True)


def test_samples_are_dealt_out_anew_without_moving_a_byte(copy: Path) -> None:
    before = contents(copy)
    shares = "train=0.5,val=0.3,test=0.2"
    found = run_json("split", copy, "--name", "fold1", "--shares", shares, "--seed", "3")
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


def test_bench_reads_the_same_samples_in_every_way(built: Path) -> None:
    found = run_json(
        "bench", built, "--samples", "5", "--threads", "2", "--modalities", "S2L2A,DEM"
    )
    assert found["modalities"] == ["S2L2A", "DEM"]
    assert len(found["ways"]) == 5
    assert all(way["samples_per_s"] > 0 and way["mb_per_s"] > 0 for way in found["ways"])
    refused = run_shards("bench", str(built), "--modalities", "S3")
    assert "no modality 'S3'" in refused.stderr


def test_bench_reads_what_was_added_where_it_lies(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", {})
    sizes = []
    for split, shard in dataset.shards:
        parts = [np.zeros(100 + i, np.uint8) for i in dataset.shard_samples(split, shard)]
        sizes += [encode_npy(part) for part in parts]
        writer.write_shard(f"{split}/{shard}", parts)
    writer.commit()
    assert _raw(open_dataset(copy), list(range(10)), ["tok"]) == sum(map(len, sizes))
    found = open_dataset(copy).extents(0, ["DEM", "tok"])
    assert [tar for tar, _, _ in found] == [
        str(copy / "train/shard-000000.tar"),
        str(copy / "extra/tok/train/shard-000000.tar"),
    ]
    tar, block, size = found[1]
    assert Path(tar).read_bytes()[512 * block :][:size] == sizes[0]


def test_later_splits_are_read_once_to_select(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(copy)
    made = make_splitting(dataset, "fold1", {"train": 0.5, "val": 0.5}, 0.25, 3)
    read = []
    monkeypatch.setattr("shards.dataset.read_splitting", lambda *_: read.append(1) or made)
    dataset.select("val", splitting="fold1")
    assert read == [1]


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_shares_that_are_none_are_refused(shares: dict[str, float], dataset: Dataset) -> None:
    with pytest.raises(ShardError, match="must be >= 0 and sum to 1"):
        make_splitting(dataset, "odd", shares, 0.25, 0)
