import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = "configs/experiments/demo.yaml"


def submit(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.submit", *argv]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy(root: Path) -> None:
    heavy = ["torch", "deepspeed", "rasterio", "submitit", "h5py", "matplotlib"]
    code = (
        "import sys, contextlib\n"
        "from launch.submit import app\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        f"print('loaded', [name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "--dry-run" in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_a_slurm_dry_run_prints_the_batch_script(root: Path) -> None:
    result = submit(
        root, "stage2", "--config", "configs/stage2/small.yaml", "--cluster", "slurm", "--dry-run",
        "--nodes", "4", "--gpus-per-node", "4", "--time", "90", "engine.num_steps=5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --time=90",
        "#SBATCH --signal=USR2@300",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "export NCCL_DEBUG=WARN",
    ):
        assert line in result.stdout.splitlines()
    header = "python -m pipeline train --config configs/stage2/small.yaml engine.num_steps=5"
    assert header in result.stdout
    script = result.stdout[result.stdout.index("#!/bin/bash") :]
    assert re.search(r"^srun .*--kill-on-bad-exit=1 .*submitit", script, re.MULTILINE)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("cluster", ["slurm", "sbatch"])
def test_a_slurm_dry_run_writes_nothing_and_its_scripts_are_sound(
    root: Path, tmp_path: Path, cluster: str
) -> None:
    out = tmp_path / "run"
    result = submit(root, "all", "--config", DEMO, "--cluster", cluster, "--dry-run", f"out={out}")
    assert result.returncode == 0, result.stderr
    assert not out.exists()
    beside = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    assert shellcheck is not None
    for script in result.stdout.split("#!/bin/bash")[1:]:
        # 1091: the snapshot is not there yet. 2034: what common.sh reads.
        checked = subprocess.run(
            [shellcheck, "--shell=bash", "--exclude=SC1091,SC2034,SC2154", "-"],
            input=script.split("\n# step ")[0], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout


def test_a_slurm_dry_run_of_an_experiment_shows_who_waits_for_whom(root: Path) -> None:
    result = submit(root, "all", "--config", DEMO, "--cluster", "slurm", "--dry-run", "out=runs/no")
    assert result.returncode == 0, result.stderr
    scripts = result.stdout.split("#!/bin/bash")
    assert len(scripts) == 1 + 6
    shards, stage1, tokenize, _, generate, report = scripts[1:]
    assert "--dependency" not in shards
    assert "--mpi=pmix" in shards
    assert "gpus" not in shards
    assert "#SBATCH --dependency=afterok:JOBID_shards\n" in stage1
    assert "#SBATCH --array=0-8%4\n" in stage1
    assert "#SBATCH --job-name=tokenize" in tokenize
    assert "#SBATCH --dependency=afterok:JOBID_stage1\n" in tokenize
    assert "#SBATCH --array=0-1%2\n" in generate
    assert "#SBATCH --dependency=afterok:JOBID_generate\n" in report
    assert all("#SBATCH --kill-on-invalid-dep=yes" in script for script in scripts[2:])


def test_a_local_dry_run_prints_each_rank_and_starts_nothing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = submit(root, "all", "--config", DEMO, "--dry-run", "--ranks", "3", f"out={out}")
    assert result.returncode == 0, result.stderr
    stage2 = result.stdout.split("# step stage2")[1].split("# step")[0]
    assert [f" RANK={rank} " in stage2 for rank in range(4)] == [True, True, True, False]
    assert stage2.count("WORLD_SIZE=3") == 6  # LOCAL_WORLD_SIZE too
    assert not out.exists()


def test_a_debug_dry_run_names_the_function(root: Path) -> None:
    result = submit(
        root, "stage2", "--config", "configs/stage2/small.yaml", "--cluster", "debug", "--dry-run"
    )
    assert "pipeline.__main__.main(['train', '--config'" in result.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["stage2", "--config", "configs/stage2/smal.yaml"], "Did you mean configs/stage2/small"),
        (["stage2", "--config", "configs/stage2/small.yaml", "engine.nun_steps=1"], "num_steps"),
        (["stage2", "--config", "configs/stage2/small.yaml", "nonsense"], "not an override"),
        (["all", "--config", DEMO, "--cluster", "mars"], "there are debug, local, sbatch, slurm"),
        (["all", "--config", DEMO, "--nodes", "2"], "executor local runs on one node"),
        (["all", "--config", DEMO, "--ranks", "2", "--gpus-per-node", "2"], "one rank per GPU"),
        (["all", "--config", DEMO, "--cluster", DEMO], "cluster is needed here"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(
    root: Path, argv: list[str], message: str
) -> None:
    result = submit(root, *argv)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("cluster", ["slurm", "sbatch"])
def test_submitting_without_slurm_says_what_to_do(
    root: Path, tmp_path: Path, monkeypatch, cluster: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = submit(root, "stage2", "--config", "configs/stage2/small.yaml", "--cluster", cluster)
    assert result.returncode == 2
    assert "error: no Slurm here" in result.stderr
    assert "--dry-run" in result.stderr
