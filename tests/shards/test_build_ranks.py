"""Builds by several MPI ranks."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards import build as build_module
from shards.build import build
from shards.errors import ShardError
from tests.shards.helpers import (
    KILL,
    ROOT,
    command_for,
    config_for,
    contents,
    damage,
    make_collection,
    run_mpi,
)


def test_a_launcher_without_mpi4py_is_told(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ShardError, match=r"pip install \.\[mpi\]"):
        build(config_for(collection, tmp_path / "set"), quiet=True)


def test_rank_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert build_module.mpi_rank() == 0, "sbatch itself sets SLURM_PROCID without several tasks"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert build_module.mpi_rank() == 3


@pytest.mark.mpi
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_and_one_process_write_the_same_bytes(
    num_ranks: int, collection: Path, built: Path, tmp_path: Path
) -> None:
    result = run_mpi(num_ranks, ["-m", "shards", *command_for(collection, tmp_path / "set")])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("samples in") == 1, "every rank reports"
    assert contents(tmp_path / "set") == contents(built)


@pytest.mark.mpi
def test_ranks_finish_what_another_number_of_ranks_began(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    command = command_for(collection, out)
    subprocess.run([sys.executable, "-c", KILL, "rename", "6", *command], cwd=ROOT, timeout=60)
    assert run_mpi(3, ["-m", "shards", *command]).returncode == 0
    assert contents(out) == contents(built)


@pytest.mark.mpi
def test_an_error_on_one_rank_ends_all_ranks(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    damage(source / "DEM" / "place7.tif")
    result = run_mpi(3, ["-m", "shards", *command_for(source, tmp_path / "out")])
    assert result.returncode != 0
    assert result.stderr.count("error: more than max_bad=0") == 1, result.stderr
    result = run_mpi(3, ["-m", "shards", *command_for(tmp_path / "nowhere", tmp_path / "out2")])
    assert result.returncode != 0
    assert result.stderr.count("error:") == 1, result.stderr
    assert "no such folder" in result.stderr
