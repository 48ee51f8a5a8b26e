"""As much of Slurm as job scripts see, on this machine: sbatch, srun and scontrol on PATH.

sbatch keeps the script; `run` runs it as slurmd would, again whenever `scontrol requeue` was called.
srun starts real tasks, and once one fails it kills the others and reports the highest code, which is
what makes 137 of many a 75.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SBATCH = """#!/bin/bash
cd "$FAKE_SLURM"
if [[ -e refuse ]]; then echo "sbatch: error: Batch job submission failed: $(<refuse)" >&2; exit 1; fi
number=$((100 + $(find . -name 'job-*' | wc -l)))
cd "$OLDPWD"
if [[ $1 == --parsable ]]; then
    cat >"$FAKE_SLURM/job-$number"
    echo "$number"
else
    cp "$1" "$FAKE_SLURM/job-$number"
    echo "Submitted batch job $number"
fi
"""

SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'n1\\nn2\\n'; exit; fi
echo "$2" >>"$FAKE_SLURM/requeued"
if [[ -e $FAKE_SLURM/refuse ]]; then exit 1; fi
kill -TERM $PPID
"""

SRUN = """#!{python}
import os, signal, subprocess, sys, time
words = sys.argv[1:]
with open(os.environ["FAKE_SLURM"] + "/srun", "a") as file:
    file.write(" ".join(words) + "\\n")
output = None
while words[0].startswith("--"):
    option = words.pop(0)
    if option == "--output":
        output = words.pop(0)
job = os.environ["SLURM_JOB_ID"]
if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
    job = array + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    output = output and output.replace("%A_%a", job)
tasks = []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    name = output and output.replace("%j", job).replace("%t", str(rank))
    tasks.append(subprocess.Popen(
        [word.replace("%j", job) for word in words], start_new_session=True,
        stdout=name and open(name, "a"), stderr=subprocess.STDOUT,
        env=os.environ | dict(SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NODEID="0"),
    ))
while any(task.poll() is None for task in tasks):
    time.sleep(0.02)
    if any(task.poll() for task in tasks):
        for task in tasks:
            try:
                os.killpg(task.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
sys.exit(max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks)))
"""


@dataclass
class Ended:
    """How a job ended: the exit code of its last run, what its script printed, how often it ran."""

    code: int
    log: str
    num_runs: int


@dataclass
class FakeSlurm:
    """`folder` holds `job-ID` (scripts), `srun` (its arguments) and `requeued` (ids)."""

    folder: Path

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        binaries = self.folder / "bin"
        binaries.mkdir(parents=True)
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
            self.add(name, text.replace("{python}", sys.executable))
        monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM", str(self.folder))

    def add(self, name: str, text: str) -> None:
        """One more program on PATH."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def refuse(self, reason: str) -> None:
        (self.folder / "refuse").write_text(reason)

    def script(self, number: int) -> str:
        return (self.folder / f"job-{number}").read_text()

    @property
    def num_jobs(self) -> int:
        return len(list(self.folder.glob("job-*")))

    @property
    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []

    @property
    def srun(self) -> str:
        return (self.folder / "srun").read_text()

    def run(
        self,
        number: int,
        task: int | None = None,
        at_most: int = 5,
        more: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a job, or one task of an array, until it ends without being requeued.

        `more` are variables of the job beside those, or in the place of those, that it always has.
        """
        given = directives(self.script(number))
        # The last task of an array to start has the plain number of the array.
        environment = os.environ | {
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NNODES": "1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": given["ntasks-per-node"],
            "SLURM_CPUS_PER_TASK": given["cpus-per-task"],
        }
        environment |= more or {}
        if task is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        name = str(number) if task is None else f"{number}_{task}"
        log = ""
        for restart in range(at_most):
            before = len(self.requeued)
            result = subprocess.run(
                ["bash", str(self.folder / f"job-{number}")], cwd=given["chdir"],
                env=environment | {"SLURM_RESTART_COUNT": str(restart)} ,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
            )  # fmt: skip
            log += result.stdout
            if self.requeued[before:] != [name] or (self.folder / "refuse").exists():
                return Ended(result.returncode, log, restart + 1)
        raise AssertionError(f"job {name} does not come to an end:\n{log}")


def directives(script: str) -> dict[str, str]:
    """The options in the head of a batch script."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {key: value.strip("'") for key, value in found}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "fake-slurm")
    fake.install(monkeypatch)
    assert shutil.which("sbatch") == str(fake.folder / "bin" / "sbatch")
    return fake
