"""What submitit runs as every task of a Slurm job: one rank of one step, in process.

Resume is decided from the disk alone, so `checkpoint` hands back the same job. submitit's handler of
USR2 requeues the job; training replaces that handler while it runs and calls it on rank 0 after the
commit. Exit codes are kept, because `afterok` dependencies of later steps rest on them. A 75 that
comes back here was not requeued on purpose: after TERM, by which Slurm cancels or preempts a job, it
is up to Slurm whether the job starts again.
"""

import os
import sys
from dataclasses import dataclass

import submitit
from submitit.helpers import DelayedSubmission

from launch.call import call
from launch.errors import PREEMPTED
from launch.plan import Step

# Below Linux's ephemeral range (32768-60999), where an outgoing connection may already sit.
_FIRST_PORT, _NUM_PORTS = 20000, 12000


def distributed_environment(job: submitit.JobEnvironment) -> dict[str, str]:
    """RANK and its companions for this task; all tasks derive the same port from the job id."""
    digits = "".join(c for c in job.raw_job_id if c.isdigit())
    return {
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0],
        "MASTER_PORT": str(_FIRST_PORT + int(digits) % _NUM_PORTS),
    }


@dataclass(frozen=True)
class StepJob:
    """One step as a callable that submitit can pickle, run and requeue."""

    step: Step

    def __call__(self) -> int:
        job = submitit.JobEnvironment()
        if self.step.launch == "ranks":
            os.environ.update(distributed_environment(job))
        code = call(self.step)
        first = job.global_rank == 0
        # Rank 0 alone speaks for a preempted job: an exit that fails could end it before it does.
        if code != 0 and (first or code != PREEMPTED):
            sys.exit(code)
        if code == 0 and first:
            self.step.write_record()
        return code

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)
