"""`verify` in several processes, over a share of the shards, and over shards that are all damage."""

import dataclasses
from pathlib import Path

import pytest

from shards.checks.pool import check_shards
from shards.errors import ShardError
from shards.verify import verify
from tests.shards.flaws import SINGLE, series
from tests.shards.planted import build_planted
from tests.shards.test_dataset import flip_bit


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards with something of everything, bytes included."""
    planted = [s for s, *_ in SINGLE.values()]
    samples = [dataclasses.replace(s, key=f"odd{i}") for i, s in enumerate(planted)]
    samples += series(1000, days=30)
    out = tmp_path_factory.mktemp("flawed") / "set"
    build_planted(out, samples, samples_per_shard=8)
    flip_bit(out, "odd1.S1GRD.b2")
    return out


def test_any_number_of_processes_finds_the_same(flawed: Path) -> None:
    alone, together = verify(flawed), verify(flawed, jobs=2)
    assert len(alone.findings) > 10
    assert {f.level for f in alone.findings} == {"digests", "decode", "semantics"}
    assert together.findings == alone.findings
    assert (together.num_parts, together.num_bytes) == (alone.num_parts, alone.num_bytes)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        import os

        return os._exit, (1,)


def test_a_process_that_dies_is_told_and_waited_for_by_nobody() -> None:
    with pytest.raises(ShardError, match="smaller --jobs"):
        list(check_shards(None, [Deadly()] * 3, 2))  # pyright: ignore


def test_a_share_of_the_shards_is_read_the_same_for_the_same_seed(flawed: Path) -> None:
    some = verify(flawed, sample=0.3)
    assert (some.num_shards, some.num_read) == (6, 2)
    assert some.to_dict()["num_read"] == 2
    assert some.findings == verify(flawed, sample=0.3).findings
    drawn = {verify(flawed, "walk", sample=0.01, seed=seed).num_parts for seed in range(8)}
    assert len(drawn) > 1
    assert verify(flawed, "walk", sample=1e-9).num_read == 1


def test_all_shards_are_checked_for_size_whatever_is_read(flawed: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(flawed, tmp_path / "copy"))
    for tar in copy.glob("train/*.tar"):
        tar.write_bytes(tar.read_bytes()[:-512])
    report = verify(copy, sample=0.2)
    assert sum(f.level == "sizes" for f in report.errors) == 6


def test_a_shard_that_is_all_damage_does_not_fill_the_report(flawed: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(flawed, tmp_path / "copy"))
    tar = copy / "train" / "shard-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    errors = [f for f in verify(copy, "walk").errors if f.where == str(tar)]
    assert len(errors) == 21
    assert errors[-1].what.endswith("more errors like these")
    tar.write_bytes(b"")
    errors = [f.what for f in verify(copy, "walk").errors if f.where == str(tar)]
    assert any("parts lie behind its end, the first is" in what for what in errors)
    assert len(errors) < 5
