"""Training on a data set with damage: it goes on, in step, says so, and does it again alike."""

import json
import shutil
from pathlib import Path

import pytest

from shards.index import index_path, member_layout, read_index
from tests.dist.ranks import run_ranks

pytestmark = pytest.mark.dist


def spoil(folder: Path) -> None:
    """Cut the end off one training shard and flip a bit in every tenth part of another."""
    first, second, *_ = sorted((folder / "train").glob("*.tar"))
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    content = bytearray(second.read_bytes())
    for _, offset, size in member_layout(read_index(index_path(second)))[::10]:
        content[offset + size // 2] ^= 1
    second.write_bytes(content)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_damaged_shards_do_not_stop_training(stage2_argv, tokens, tmp_path):
    argv, _ = stage2_argv
    spoilt = Path(shutil.copytree(tokens, tmp_path / "spoilt"))
    spoil(spoilt)
    # Far more damage than a disk makes: half of the samples of 12 steps meet it.
    argv = [a for a in argv if not a.startswith("out=")] + [f"data.shards={spoilt}"]
    curves = []
    for name in ("one", "two"):
        output = run_ranks([*argv, f"out={tmp_path / name}"], 2, tmp_path / "logs" / name)
        assert "bytes long" in output
        assert "damaged samples replaced" in output
        lines = [line for line in metrics(tmp_path / name) if "loss" in line]
        assert sum(line.get("damaged_samples", 0) for line in lines) > 0
        curves.append({line["step"]: line["loss"] for line in lines})
    assert curves[0] == curves[1]
    assert len(curves[0]) == 12
    told = [
        json.loads(line)
        for path in (tmp_path / "one" / "damaged").glob("rank-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {"position", "index", "stand_in", "reason"} == set(told[0])
    assert all(str(spoilt) in entry["reason"] for entry in told)
