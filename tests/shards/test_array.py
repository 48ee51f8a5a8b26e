"""Builds by processes that know of each other by files alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shards import array
from shards.array import build_array
from shards.build import build, hold_alone
from shards.claims import Claims, live_claims
from shards.errors import ShardError
from shards.status import build_status
from tests.shards.helpers import ROOT, command_for, config_for, contents, make_collection


def without_claims(folder: Path) -> dict[str, bytes]:
    return {n: b for n, b in contents(folder).items() if not n.startswith("claims/")}


def start(source: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shards", *command_for(source, out), "--array", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_only_one_holds_a_claim_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    first, second = Claims(tmp_path, 60), Claims(tmp_path, 60)
    with first.hold("a") as mine, second.hold("a") as theirs, second.hold("b") as other:
        assert (mine, theirs, other) == (True, False, True)
        assert [c["claim"] for c in live_claims(tmp_path)] == ["a", "b"]
    with second.hold("a") as now:
        assert now
    assert live_claims(tmp_path) == []


def test_a_claim_outlives_its_lease_only_while_its_owner_lives(tmp_path: Path) -> None:
    dead, living = Claims(tmp_path, 60), Claims(tmp_path, 0.3)
    abandoned = tmp_path / "claims" / "a.claim"
    abandoned.write_text('{"owner": "nobody", "host": "h", "pid": 1}')
    with dead.hold("a") as mine:
        assert not mine
    past = time.time() - 100
    os.utime(abandoned, (past, past))
    with living.hold("a") as mine:
        assert mine
    with living.hold("b") as mine:
        assert mine
        time.sleep(0.9)
        with Claims(tmp_path, 0.3).hold("b") as stolen:
            assert not stolen


def test_an_expired_claim_is_taken_over_by_one_alone(tmp_path: Path) -> None:
    together, done = threading.Barrier(8), threading.Barrier(8)

    def take(claims: Claims) -> bool:
        together.wait()
        with claims.hold("a") as mine:
            done.wait()
            return mine

    with ThreadPoolExecutor(8) as pool:
        for _ in range(30):
            everyone = [Claims(tmp_path, 60) for _ in range(8)]
            abandoned = tmp_path / "claims" / "a.claim"
            abandoned.write_text('{"owner": "nobody", "host": "h", "pid": 1}')
            os.utime(abandoned, (0, 0))
            assert sum(pool.map(take, everyone)) == 1
    assert list((tmp_path / "claims").iterdir()) == []


def test_tasks_share_a_build_and_the_bytes_are_those_of_one_process(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    tasks = [start(collection, tmp_path / "out", "--quiet") for _ in range(3)]
    for task in tasks:
        output, errors = task.communicate(timeout=100)
        assert task.returncode == 0, errors
        assert "10 samples in" in output
    assert without_claims(tmp_path / "out") == contents(built)
    assert live_claims(tmp_path / "out") == []


def test_what_a_killed_task_had_claimed_is_taken_over(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=12)
    out = tmp_path / "out"
    killed = start(source, out, "--lease", "1")
    deadline = time.monotonic() + 60
    while not list(out.glob("claims/train-*.claim")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    leftover = out / ".index.bin.tmp-elsewhere-1"
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    result = build_array(config_for(source, out), quiet=True, lease_s=1)
    assert result.num_samples == 12
    assert not leftover.exists()
    assert build(config_for(source, tmp_path / "alone"), quiet=True)
    assert without_claims(out) == contents(tmp_path / "alone")


def test_a_data_set_with_a_hole_does_not_look_whole(
    collection: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(config_for(collection, out), quiet=True)
    (out / "train" / "shard-000000.tar").unlink()
    seen = []
    fill = array.fill_shard

    def looking(*args: Any) -> Any:
        seen.append((out / "manifest.json").exists())
        return fill(*args)

    monkeypatch.setattr(array, "fill_shard", looking)
    assert build_array(config_for(collection, out), quiet=True).num_built == 1
    assert seen == [False]
    assert without_claims(out) == contents(built)


def test_an_array_task_and_a_whole_build_do_not_mix(collection: Path, tmp_path: Path) -> None:
    with hold_alone(tmp_path / "out"), pytest.raises(ShardError, match="is writing to"):
        build_array(config_for(collection, tmp_path / "out"), quiet=True)


def test_faults_of_all_tasks_are_counted_together(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    for number in (3, 7):
        (source / "DEM" / f"place{number}.tif").write_bytes(b"no tiff")
    with pytest.raises(ShardError, match="max_bad=1"):
        build_array(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert build_array(config_for(source, tmp_path / "out", max_bad=2), quiet=True)


def test_status_tells_how_far_a_build_is(collection: Path, built: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no plan"):
        build_status(tmp_path)
    whole = build_status(built)
    assert (whole["state"], whole["samples_done"], whole["share"]) == ("whole", 10, 1.0)
    out = tmp_path / "out"
    build(config_for(collection, out), quiet=True)
    (out / "manifest.json").unlink()
    (out / "train" / "shard-000000.tar").unlink()
    part = build_status(out)
    assert (part["state"], part["samples_done"]) == ("building", 6)
    for tar in out.rglob("*.tar"):
        os.utime(tar, (0, 0))
    with Claims(out, 60).hold("train-shard-000000"):
        claimed = build_status(out)
    assert claimed["state"] == "building"
    assert claimed["claims"][0]["pid"] == os.getpid()
    assert build_status(out)["state"] == "stopped"


def test_a_task_that_only_seemed_dead_goes_on_with_the_rest(
    collection: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fill, taken = array.fill_shard, []

    def too_slow(site: Any, task: Any, idle: Any) -> Any:
        done = fill(site, task, idle)
        if not taken:
            # Another task took over, wrote the shard, gave its claim back and swept what was begun here.
            taken.append(task)
            (out / "claims" / f"{task.shard.path.replace('/', '-')}.claim").unlink()
            raise ShardError("the temporary file is gone")
        return done

    monkeypatch.setattr(array, "fill_shard", too_slow)
    assert build_array(config_for(collection, out), quiet=True).num_built == 2
    assert without_claims(out) == contents(built)


def test_quarantine_tells_all_faults_when_there_are_too_many(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    config = config_for(source, tmp_path / "out", samples_per_shard=1, splits={"train": 1.0})
    for number in (3, 5, 7):
        (source / "DEM" / f"place{number}.tif").write_bytes(b"no tiff")
    with pytest.raises(ShardError, match="max_bad=2"):
        build_array(config.model_copy(update={"max_bad": 2}), quiet=True)
    told = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in told} == {"place3", "place5", "place7"}


def test_a_task_that_finds_everything_done_looks_at_no_shard(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config_for(collection, tmp_path / "out"), quiet=True)

    def look(*_: object) -> None:
        raise AssertionError("a shard was looked at")

    monkeypatch.setattr(array, "_is_there", look)
    assert build_array(config_for(collection, tmp_path / "out"), quiet=True).num_built == 0


def test_the_rate_is_told_by_the_time_since_the_build_began(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    now = time.time()
    os.utime(copy / "plan.parquet", (now - 100, now - 100))
    first, *others = sorted((copy / "train").glob("*.tar")) + sorted((copy / "val").glob("*.tar"))
    for tar in others:
        tar.unlink()
    found = build_status(copy)
    assert (found["samples_done"], found["samples_per_s"]) == (4, 0.04)
    assert found["left_s"] == pytest.approx(150, abs=5)
    os.utime(first, (now - 3600, now - 3600))
    stopped = build_status(copy)
    assert (stopped["samples_per_s"], stopped["left_s"]) == (0, None)
