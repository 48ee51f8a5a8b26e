"""Repair: damaged shards made anew from the source, or salvaged without it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import repair as repair_module
from shards.add import add_modalities
from shards.build import build, hold_alone
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.extra import ExtraWriter
from shards.fill import Task
from shards.index import index_path
from shards.merge import merge
from shards.repair import repair
from shards.verify import verify
from tests.shards.helpers import (
    config_for,
    contents,
    make_collection,
    move_out,
    run_json,
    run_shards,
)
from tests.shards.test_dataset import flip_bit


def test_repair_makes_damaged_shards_as_they_were(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    build(config_for(collection, out), quiet=True)
    whole = contents(out)
    flip_bit(out, "place4.S2L2A.b2")
    cut = sorted(out.rglob("*.tar"))[-1]
    cut.write_bytes(cut.read_bytes()[:-1024])
    found = run_json("repair", out)
    assert len(found["shards"]) == 2
    assert contents(out) == whole
    assert run_json("repair", out)["shards"] == []


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


def present(dataset: Dataset) -> dict[str, set[str]]:
    """The parts that each sample can be read with."""
    return {key: set(dataset.read(i, dataset.own_modalities)) for i, key in enumerate(dataset.keys)}


def damage_two_shards(out: Path) -> dict[str, set[str]]:
    """Flip a bit in the first sample of two shards; what a salvage should leave."""
    dataset = open_dataset(out)
    left = present(dataset)
    for split, name in dataset.shards[:2]:
        key = dataset.keys[dataset.shard_samples(split, name)[0]]
        flip_bit(out, f"{key}.DEM.b2")
        left[key] -= {"DEM"}
    return left


def stop_after(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a salvage write so many shards and end then, as by a signal."""
    fill, done = repair_module.fill_shard, []

    def filling(site: Any, task: Task, idle: Callable[[], None]) -> Any:
        if len(done) == num:
            raise KeyboardInterrupt
        done.append(task)
        return fill(site, task, idle)

    monkeypatch.setattr(repair_module, "fill_shard", filling)


@pytest.mark.parametrize("num", [0, 1])
def test_a_salvage_that_was_stopped_loses_nothing_more(
    num: int, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = damage_two_shards(copy)
    with monkeypatch.context() as patch:
        stop_after(num, patch)
        with pytest.raises(KeyboardInterrupt):
            repair(copy, salvage=True)
    with pytest.raises(ShardError, match="not a finished data set"):
        open_dataset(copy)
    with pytest.raises(ShardError, match=r"a salvage of .* was stopped"):
        repair(copy)
    assert len(repair(copy, salvage=True).shards) == 2
    assert present(open_dataset(copy)) == left
    assert verify(copy).errors == []
    assert not (copy / "salvage").exists()


def test_a_salvage_stopped_at_its_very_end_goes_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = damage_two_shards(copy)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shards.finish.write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            repair(copy, salvage=True)
    repair(copy, salvage=True)
    assert present(open_dataset(copy)) == left


def test_a_salvage_keeps_added_modalities_out_of_the_shards_of_the_build(
    collection: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(collection, tmp_path / "old"))
    late = tmp_path / "late"
    move_out(old, "LULC", late)
    out = tmp_path / "set"
    build(config_for(old, out), quiet=True)
    add_modalities(open_dataset(out), config_for(late, out), ["LULC"], quiet=True)
    left = damage_two_shards(out)
    assert repair(out, salvage=True).extras == ["extra/LULC"]
    with pytest.raises(ShardError, match="made for another data set"):
        open_dataset(out)
    shutil.rmtree(out / "extra")
    salvaged = open_dataset(out)
    assert "LULC" not in salvaged.modalities
    assert present(salvaged) == left


def test_a_salvage_reads_by_the_shards_own_indices_where_the_joined_one_is_damaged(
    copy: Path,
) -> None:
    left = damage_two_shards(copy)
    (copy / "index.bin").write_bytes(b"EOIX")
    repair(copy, salvage=True)
    assert present(open_dataset(copy)) == left


def test_a_salvage_by_no_index_at_all_is_refused_before_anything_changes(copy: Path) -> None:
    flip_bit(copy, "place4.DEM.b2")
    (copy / "index.bin").write_bytes(b"EOIX")
    index_path(next(copy.rglob("*.tar"))).unlink()
    before = contents(copy)
    with pytest.raises(ShardError, match="from the source only"):
        repair(copy, salvage=True)
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["index.bin", "samples.parquet"])
@pytest.mark.parametrize("kept", [0, 500])
def test_what_lies_over_all_shards_is_made_anew(name: str, kept: int, copy: Path) -> None:
    whole = contents(copy)
    (copy / name).write_bytes(whole[name][:kept])
    done = repair(copy)
    assert (done.shards, done.head) == ([], True)
    assert contents(copy) == whole
    assert not repair(copy).head


def test_the_index_of_a_merged_data_set_is_made_anew_without_a_plan(
    built: Path, tmp_path: Path
) -> None:
    merge(tmp_path / "set", [built])
    whole = contents(tmp_path / "set")
    (tmp_path / "set" / "index.bin").unlink()
    repair(tmp_path / "set")
    assert contents(tmp_path / "set") == whole


def test_a_damaged_index_of_an_extra_is_named(copy: Path) -> None:
    writer = ExtraWriter(open_dataset(copy), "tok", {})
    for split, shard in writer.dataset.shards:
        count = len(writer.dataset.shard_samples(split, shard))
        writer.write_shard(f"{split}/{shard}", [np.arange(9)] * count)
    writer.commit()
    (copy / "extra" / "tok" / "index.bin").write_bytes(b"EOIX")
    assert repair(copy).extras == ["extra/tok/index"]


def test_a_repair_waits_for_nobody_who_writes_there(copy: Path, tmp_path: Path) -> None:
    with hold_alone(copy), pytest.raises(ShardError, match="is writing to"):
        repair(copy)
    with pytest.raises(ShardError, match="no manifest"):
        repair(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
