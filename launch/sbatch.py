"""Slurm jobs as plain batch scripts: the options, slurm/common.sh, and one command.

The script of every job is kept beside its log; `sbatch SCRIPT` submits it again.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from launch.errors import LaunchError
from launch.jobs import Job, Site, options, runs_mpi, script_lines


class SbatchRoute:
    """Jobs through `sbatch --parsable`."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def render(self, job: Job, waits: list[str]) -> str:
        given = options(job, self.site, waits)
        if job.is_array:
            num_tasks = len(job.tasks)
            at_once = min(num_tasks, self.site.cluster.array_parallelism or num_tasks)
            given["array"] = f"0-{num_tasks - 1}%{at_once}"
        given["output"] = str(self._log(job))
        lines = [
            "#!/bin/bash",
            *(_directive(key, value) for key, value in sorted(given.items())),
            "",
        ]
        lines += [*script_lines(job, self.site, sys.executable), ""]
        cluster = self.site.cluster
        if runs_mpi(job, cluster):
            lines += [f"MPI={shlex.quote(cluster.mpi)}", 'run_mpi "${command[@]}"']
        else:
            lines += ['run_ranks "${command[@]}"']
        return "\n".join(lines) + "\n"

    def send(self, job: Job, waits: list[str]) -> tuple[str, Path]:
        self.site.log_dir.mkdir(parents=True, exist_ok=True)
        script = self.render(job, waits)
        try:
            result = subprocess.run(
                ["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise LaunchError(f"sbatch cannot be run: {error}") from error
        if result.returncode != 0:
            raise LaunchError(
                f"sbatch refuses the job: {result.stderr.strip()}; what it was given is shown by "
                "--dry-run, and comes from the file of the cluster"
            )
        # ID or, with several clusters, ID;CLUSTER
        number = result.stdout.strip().split(";")[0]
        (self.site.log_dir / f"{job.name}-{number}.sbatch").write_text(script)
        return number, self._log(job)

    def _log(self, job: Job) -> Path:
        return self.site.log_dir / ("%x-%A_%a.log" if job.is_array else "%x-%j.log")


def _directive(key: str, value: str | int | bool) -> str:
    return f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}"
