"""Submit a plan as Slurm jobs: code and configurations as they are now, later jobs waiting for earlier.

Two routes ask Slurm for the same and run the same: `launch.submitit_route` and `launch.sbatch`. What
`--dry-run` prints is what would be submitted, made by the same code from the same plan.
"""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import typer

from configs.schema import ClusterConfig
from launch.errors import LaunchError
from launch.executors import Steps, prepare
from launch.jobs import Job, Site, grouped, make_job, run_root
from launch.sbatch import SbatchRoute
from launch.snapshot import take_snapshot


class Route(Protocol):
    """One way to hand a job to Slurm. `waits` are the ids of jobs that must succeed first."""

    def render(self, job: Job, waits: list[str]) -> str:
        """The batch script."""
        ...

    def send(self, job: Job, waits: list[str]) -> tuple[str, Path]:
        """Submit it; gives its id and where its log will be. Raises LaunchError."""
        ...


def submit(steps: Steps, cluster: ClusterConfig) -> int:
    """Submit every step that is not done and print its job id. Raises LaunchError without Slurm."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise LaunchError(
            "no Slurm here (sbatch and srun are not on PATH): submit from a login node, look at "
            "the scripts with --dry-run, or run on this machine with --cluster local"
        )
    site = _site(steps, cluster)
    route = _route(site)
    site.code.write()
    typer.echo(f"code: {site.code.folder}")
    ids: dict[str, str] = {}
    for done, job, waits in _jobs(steps, site, ids):
        for step in done:
            typer.echo(f"{step.name}: skipped, committed before")
        if job is None:
            continue
        for task in job.tasks:
            prepare(task.step)
            task.write()
        try:
            number, log = route.send(job, waits)
        except LaunchError as error:
            raise LaunchError(f"{job.name}: {error}{_submitted(ids)}") from error
        ids |= dict.fromkeys(job.names, number)
        after = f" after {', '.join(waits)}" if waits else ""
        tasks = f" an array of {len(job.tasks)}: {', '.join(job.names)};" if job.is_array else ""
        typer.echo(f"{job.name}: job {number}{after};{tasks} log {log}")
    return 0


def describe(steps: Steps, cluster: ClusterConfig) -> None:
    """Print what each job's tasks run and the exact batch script that would be submitted."""
    site = _site(steps, cluster)
    route = _route(site)
    typer.echo(f"# code ({site.code.version}) -> {site.code.folder}\n")
    pending: dict[str, str] = {}
    for done, job, waits in _jobs(steps, site, pending):
        for step in done:
            typer.echo(f"# step {step.name}: committed, would be skipped\n")
        if job is None:
            continue
        pending |= dict.fromkeys(job.names, f"JOBID_{job.name.replace('-', '_')}")
        for task in job.tasks:
            typer.echo(
                f"# step {task.step.name} -> {task.step.out}; every task of srun runs, from a"
            )
            typer.echo("# configuration written down at submission,")
            typer.echo(f"#   {shlex.join(['python', '-m', task.step.package, *task.asked.args])}")
        if waits:
            typer.echo("# JOBID_x stands for the id that Slurm gives to job x")
        typer.echo(route.render(job, waits))


def _site(steps: Steps, cluster: ClusterConfig) -> Site:
    root = run_root(steps, cluster)
    return Site(cluster, take_snapshot(root), root, Path.cwd())


def _route(site: Site) -> Route:
    if site.cluster.executor == "sbatch":
        return SbatchRoute(site)
    # A tenth of a second to import.
    from launch.submitit_route import SubmititRoute

    return SubmititRoute(site)


def _jobs(
    steps: Steps, site: Site, ids: dict[str, str]
) -> Iterator[tuple[Steps, Job | None, list[str]]]:
    """Group by group: steps that are done, the job of the others if there are any, what it waits for.

    `ids` names the jobs so far: whoever asks for the next one has added the last.
    """
    for group in grouped(steps):
        waits = list(dict.fromkeys(ids[name] for name in group[0].after if name in ids))
        # What waits for a job is not done with what that one brings.
        left = tuple(step for step in group if waits or not step.is_done())
        done = tuple(step for step in group if step not in left)
        yield done, make_job(left, site.root) if left else None, waits


def _submitted(ids: dict[str, str]) -> str:
    numbers = list(dict.fromkeys(ids.values()))
    if not numbers:
        return ""
    return f"; submitted before it: {' '.join(numbers)} (to take them back: scancel {' '.join(numbers)})"
