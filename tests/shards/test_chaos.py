"""Builds killed at random moments, started again with other numbers of ranks: the bytes are the same."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.build import build
from shards.verify import verify
from tests.shards.helpers import (
    ROOT,
    command_for,
    config_for,
    contents,
    make_collection,
    mpi_command,
)

pytestmark = pytest.mark.mpi


def run_for(argv: list[str], seconds: float) -> bool:
    """Run a process group and kill all of it with SIGKILL after a while; whether it ended before."""
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
        return process.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # Ranks of mpiexec lead sessions of their own: they are found by whose children they are.
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_a_build_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = make_collection(tmp_path / "in", num=40)
    out = tmp_path / "out"
    arguments = ["-m", "shards", *command_for(source, out, "samples_per_shard=2"), "--quiet"]
    num_killed = 0
    for _ in range(30):
        ranks = rng.choice([1, 2, 3])
        argv = [sys.executable, *arguments] if ranks == 1 else mpi_command(ranks, arguments)
        if run_for(argv, rng.uniform(0.4, 1.6)):
            break
        num_killed += 1
    else:
        assert run_for([sys.executable, *arguments], 120)
    assert num_killed > 0, "nothing was interrupted: shorten the times"
    build(config_for(source, tmp_path / "calm", samples_per_shard=2), quiet=True)
    assert contents(out) == contents(tmp_path / "calm")
    assert verify(out).errors == []
    shutil.rmtree(out)
