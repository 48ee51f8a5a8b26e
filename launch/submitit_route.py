"""Slurm jobs through submitit: it writes the script and the logs, pickles each step and runs it.

How a job ends is not left to submitit: its handlers requeue a job from within rank 0, which nobody
is left to do when a rank is killed. The script's own lines set an EXIT trap in slurm/common.sh, the
same as in all other job scripts, and `launch.job` puts submitit's handlers out of action.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from launch.errors import LaunchError
from launch.job import StepJob
from launch.jobs import Job, Site, container_options, options, runs_mpi, script_lines

# What submitit wants to know by its own names; it takes everything else as it is.
_KNOWN = ("job-name", "time", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task")


class _Executor(SlurmExecutor):
    """submitit's, also where there is no Slurm: it can write a script there, not submit it."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def render(self, num_tasks: int) -> str:
        if num_tasks > 1:
            self.parameters["map_count"] = num_tasks
        return self._make_submission_file_text(self._submitit_command_str, uid="")


class SubmititRoute:
    """Jobs through submitit's executor."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def render(self, job: Job, waits: list[str]) -> str:
        return self._executor(job, waits).render(len(job.tasks))

    def send(self, job: Job, waits: list[str]) -> tuple[str, Path]:
        executor = self._executor(job, waits)
        try:
            jobs = executor.submit_array([StepJob(task.step) for task in job.tasks])
        except (FailedJobError, FailedSubmissionError) as error:
            raise LaunchError(
                f"sbatch refuses the job: {error}; what it was given is shown by --dry-run, and "
                "comes from the file of the cluster"
            ) from error
        # ID or, in an array, ID_TASK
        number = jobs[0].job_id.split("_")[0]
        return number, self.site.log_dir / (f"{number}_*" if job.is_array else number)

    def _executor(self, job: Job, waits: list[str]) -> _Executor:
        # `as_rank` is set by `begin`, and ends with the interpreter.
        executor = _Executor(self.site.log_dir / "%j", python='"${as_rank[@]}"')
        executor.update_parameters(**self._parameters(job, waits))
        return executor

    def _parameters(self, job: Job, waits: list[str]) -> dict[str, Any]:
        cluster = self.site.cluster
        given = options(job, self.site, waits)
        srun = ["--kill-on-bad-exit=1"]
        srun += [f"--mpi={cluster.mpi}"] if runs_mpi(job, cluster) else []
        parameters: dict[str, Any] = {
            key.replace("-", "_"): given.pop(key) for key in _KNOWN if key in given
        }
        parameters |= {
            "signal_delay_s": cluster.signal_lead_s,
            "stderr_to_stdout": True,
            "setup": [
                *script_lines(job, self.site, sys.executable),
                _no_half_results(self.site.log_dir),
                "rendezvous",
            ],
            "srun_args": [*srun, *container_options(self.site)],
            "additional_parameters": given,
        }
        if cluster.array_parallelism is not None:
            parameters["array_parallelism"] = cluster.array_parallelism
        return parameters


def _no_half_results(log_dir: Path) -> str:
    """A rank killed while it wrote down how it ended leaves a file that no later start gets past."""
    task = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
    return f'task={task}; rm -f {shlex.quote(str(log_dir))}/"${{task:-$SLURM_JOB_ID}}"/*.save_tmp'
