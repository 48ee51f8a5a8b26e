"""The batch scripts without a Slurm: syntax, shellcheck, and how a job ends.

The `srun` and `scontrol` here stand in for Slurm's, as there is none: srun starts two real tasks with
Slurm's variables, scontrol writes down that it was called and ends the job as Slurm would.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import load_config, to_yaml

ROOT = Path(__file__).parents[2]
BATCH = sorted((ROOT / "slurm").glob("*.sbatch"))
SCRIPTS = [*BATCH, *sorted((ROOT / "slurm").glob("*.sh")), ROOT / ".ci" / "run"]

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
code=0
export BATCH_SHELL=$PPID
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" || code=$?
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [[ "$1" == show ]]; then printf 'n1\\nn2\\n'; exit; fi
echo "$@" >>"$CALLS"
kill -KILL $PPID
"""
# In place of the project's interpreter where ranks start; it is itself, to read configurations.
PYTHON = """#!/bin/bash
if [[ "$1" == -c ]]; then exec {python} "$@"; fi
echo "$RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT: $*"
{body}
"""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    beside = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    assert shellcheck is not None
    result = subprocess.run(
        [shellcheck, "--external-sources", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_scripts_can_be_requeued_without_losing_their_log(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --open-mode=append" in lines
    assert ("#SBATCH --signal=USR2@300" in lines) == (path.stem != "shards")


class Job:
    """A job script run with the stand-ins, in the checkout, writing below `folder`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.out = folder / "run"
        (folder / "bin").mkdir()
        self._tool("srun", SRUN)
        self._tool("scontrol", SCONTROL)

    def run(self, name: str, *argv: str, body: str = "", **variables: str):
        python = self._tool("python", PYTHON.format(python=sys.executable, body=body))
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": str(python),
            "CALLS": str(self.folder / "calls"),
            "OUT": str(self.out),
            "SLURM_SUBMIT_DIR": str(self.root),
            "SLURM_JOB_ID": "12345",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "1",
            **variables,
        }
        return subprocess.run(
            ["bash", str(self.root / "slurm" / f"{name}.sbatch"), *argv],
            env=environment, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip

    def stage2(self, body: str = "", **variables: str):
        return self.run(
            "stage2", "configs/stage2/small.yaml", f"out={self.out}", body=body, **variables
        )

    @property
    def requeued(self) -> bool:
        calls = self.folder / "calls"
        return calls.exists() and calls.read_text() == "requeue 12345\n"

    def _tool(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path


@pytest.fixture
def job(tmp_path: Path, root: Path) -> Job:
    return Job(tmp_path, root)


def test_every_task_becomes_a_rank_of_the_same_command(job: Job) -> None:
    result = job.stage2(SLURM_CPUS_PER_TASK="8")
    assert result.returncode == 0, result.stderr
    ranks = [line for line in result.stdout.splitlines() if " local " in line]
    argv = f"-m pipeline train --config configs/stage2/small.yaml out={job.out}"
    assert ranks == [f"{r}/2 local {r}/2 at n1:{20000 + 12345 % 12000}: {argv}" for r in (0, 1)]
    assert not job.requeued


def test_a_preempted_job_is_requeued(job: Job) -> None:
    job.stage2(body="exit 75")
    assert job.requeued


def test_a_cancelled_job_stays_cancelled(job: Job) -> None:
    result = job.stage2(body="kill -TERM $BATCH_SHELL\nexit 75")
    assert result.returncode == 75
    assert not job.requeued


@pytest.mark.parametrize("code", [2, 65])
def test_a_job_that_gave_up_is_not_started_again(job: Job, code: int) -> None:
    assert job.stage2(body=f"exit {code}").returncode == code
    assert not job.requeued


def test_a_crash_without_progress_is_not_started_again(job: Job) -> None:
    result = job.stage2(body="exit 139")
    assert result.returncode == 139
    assert "committed nothing" in result.stdout
    assert not job.requeued


CRASH_AFTER_COMMIT = """
mkdir -p "$OUT/checkpoints/step-00000100"
touch "$OUT/checkpoints/step-00000100/MANIFEST.json"
exit 139
"""


def test_a_crash_after_progress_is_started_again(job: Job) -> None:
    job.stage2(body=CRASH_AFTER_COMMIT)
    assert job.requeued


def test_crashes_have_a_limit(job: Job) -> None:
    result = job.stage2(body=CRASH_AFTER_COMMIT, MAX_RESTARTS="3", SLURM_RESTART_COUNT="3")
    assert result.returncode == 139
    assert not job.requeued


def test_a_run_that_is_done_starts_no_rank(job: Job) -> None:
    job.out.mkdir()
    (job.out / "DONE").touch()
    config = load_config("configs/stage2/small.yaml", [f"out={job.out}"])
    (job.out / "config.yaml").write_text(to_yaml(config))
    result = job.stage2(body="exit 1")
    assert result.returncode == 0
    assert "DONE exists, nothing to do" in result.stdout
    assert " local " not in result.stdout


def test_a_run_that_is_to_be_longer_than_it_was_goes_on(job: Job) -> None:
    job.out.mkdir()
    (job.out / "DONE").touch()
    config = load_config("configs/stage2/small.yaml", [f"out={job.out}", "engine.num_steps=1"])
    (job.out / "config.yaml").write_text(to_yaml(config))
    assert " local " in job.stage2().stdout


def test_a_run_that_was_called_off_starts_no_rank_and_nothing_after_it(job: Job) -> None:
    job.out.mkdir()
    (job.out / "KILL").touch()
    result = job.stage2(body="exit 1")
    assert result.returncode == 65
    assert " local " not in result.stdout


def test_how_a_run_ended_is_kept_in_its_folder(job: Job) -> None:
    job.out.mkdir()
    (job.out / "config.yaml").touch()
    job.stage2(body="exit 75")
    job.stage2(body="exit 65")
    lines = [json.loads(line) for line in (job.out / "exits.jsonl").read_text().splitlines()]
    assert [(line["code"], line["again"]) for line in lines] == [(75, True), (65, False)]
    assert lines[0]["job"] == "12345"


def test_a_task_of_an_array_is_requeued_alone(job: Job) -> None:
    variables = {"SLURM_ARRAY_JOB_ID": "12345", "SLURM_ARRAY_TASK_ID": "8"}
    job.stage2(body="exit 75", **variables)
    assert (job.folder / "calls").read_text() == "requeue 12345_8\n"


A_RANK = {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NNODES": "1",
}


def test_signals_reach_the_command_of_a_rank(tmp_path: Path) -> None:
    """As to slurmd with cgroups, which signals the processes it started itself and no others."""
    body = (
        "import signal, sys, time\n"
        "for name in sys.argv[1:]: signal.signal(getattr(signal, name), lambda *_: sys.exit(75))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    for number, name in enumerate(("SIGUSR1", "SIGUSR2", "SIGTERM")):
        note = tmp_path / f"note{number}"
        command = [str(ROOT / "slurm" / "rank.sh"), str(note), sys.executable, "-c", body, name]
        rank = subprocess.Popen(
            ["bash", *command], env=os.environ | A_RANK, stdout=subprocess.PIPE, text=True
        )
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
        rank.send_signal(getattr(signal, name))
        assert rank.wait(timeout=10) == 75
        rank.stdout.close()
        assert note.read_text() == "75\n"


def test_a_signal_never_costs_the_exit_code(tmp_path: Path) -> None:
    """Where a command dies of the signal that its shell is just passing on, bash may lose the code."""
    script = str(ROOT / "slurm" / "rank.sh")
    for number in range(40):
        note = tmp_path / f"note{number}"
        rank = subprocess.Popen(["bash", script, str(note), "sleep", "30"], env=os.environ | A_RANK)
        time.sleep(number / 1000)
        for pid in family(rank.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
        code = rank.wait(timeout=10)
        if code == -signal.SIGUSR2:  # before it could have a trap: srun tells that itself
            assert not note.exists()
        else:
            assert (code, note.read_text()) == (140, "140\n")


def family(pid: int) -> list[int]:
    """A process and all that it started, the oldest first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(other for child in children for other in family(int(child)))]


def test_the_first_rank_that_fails_is_noted(tmp_path: Path) -> None:
    note = tmp_path / "note"
    for code in (0, 65, 137):
        command = [str(ROOT / "slurm" / "rank.sh"), str(note), "bash", "-c", f"exit {code}"]
        result = subprocess.run(["bash", *command], env=os.environ | A_RANK, check=False)
        assert result.returncode == code
        assert note.exists() == (code != 0)
    assert note.read_text() == "65\n"


def test_a_wrong_configuration_starts_no_rank(job: Job) -> None:
    result = job.run("stage2", "configs/stage2/small.yaml", "engine.num_step=3")
    assert result.returncode == 2
    assert "did you mean 'num_steps'" in result.stderr
    assert " local " not in result.stdout


def test_stage1_trains_a_modality_per_array_task(job: Job) -> None:
    variables = {"MODALITIES": "DEM LULC", "SLURM_ARRAY_TASK_ID": "1"}
    argv = ("configs/stage1/small.yaml", f"out={job.out}/${{modality}}")
    result = job.run("stage1", *argv, **variables)
    assert f"train --config {argv[0]} {argv[1]} modality=LULC" in result.stdout
    (job.out / "LULC").mkdir(parents=True)
    (job.out / "LULC" / "DONE").touch()
    config = load_config(argv[0], [argv[1], "modality=LULC"])
    (job.out / "LULC" / "config.yaml").write_text(to_yaml(config))
    assert f"{job.out}/LULC/DONE exists" in job.run("stage1", *argv, **variables).stdout
    variables["SLURM_ARRAY_TASK_ID"] = "2"
    result = job.run("stage1", *argv, **variables)
    assert result.returncode == 0
    assert "no modality for array task 2" in result.stdout


def test_tokenize_runs_on_every_task(job: Job) -> None:
    result = job.run("tokenize", "configs/tokenize/small.yaml", f"data.shards={job.out}")
    assert result.stdout.count("-m pipeline tokenize --config configs/tokenize/small.yaml") == 3


@pytest.mark.parametrize(("mpi", "num_processes"), [("pmix", 2), ("none", 1)])
def test_shards_are_built_by_mpi_ranks_or_alone(job: Job, mpi: str, num_processes: int) -> None:
    result = job.run("shards", "configs/shards/synthetic.yaml", f"out={job.out}", MPI=mpi)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": -m shards build --config") == num_processes


def test_array_tasks_build_shards_each_alone(job: Job) -> None:
    argv = ("configs/shards/synthetic.yaml", f"out={job.out}")
    result = job.run("shards", *argv, SLURM_ARRAY_TASK_ID="3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": -m shards build --config") == 1
    assert f"out={job.out} --array" in result.stdout
