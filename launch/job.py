"""What submitit runs as every task of a Slurm job: one rank of one step, in process.

What to resume is decided from the disk alone, and whether the job is started again by its batch
script, from the exit code. So nothing of submitit's own way of requeueing is used.
"""

import signal
import sys
from dataclasses import dataclass

from launch.call import call
from launch.step import Step


@dataclass(frozen=True)
class StepJob:
    """One step as a callable that submitit can pickle and run."""

    step: Step

    def __call__(self) -> int:
        # submitit requeues on USR2 at once, and ignores TERM, by which Slurm takes a node back.
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        code = call(self.step)
        if code != 0:
            sys.exit(code)
        return code
