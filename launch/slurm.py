"""A plan as Slurm jobs, through submitit: one job per step, later ones waiting with `afterok`.

The batch script that `--dry-run` prints is the one submitit would hand to sbatch, made by the same
code from the same parameters.
"""

import shlex
import shutil
from typing import Any

import typer
from submitit.slurm.slurm import SlurmExecutor

from configs.schema import ClusterConfig
from launch.errors import LaunchError
from launch.executors import Steps, prepare
from launch.job import StepJob
from launch.plan import Step


class _Renderer(SlurmExecutor):
    """submitit's executor where there is no Slurm: it can write a script, not submit it."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def render(self) -> str:
        return self._make_submission_file_text(self._submitit_command_str, uid="")


def submit(steps: Steps, cluster: ClusterConfig) -> int:
    """Submit every step that is not done and print its job id. Raises LaunchError without Slurm."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise LaunchError(
            "no Slurm here (sbatch and srun are not on PATH): submit from a login node, look at "
            "the scripts with --dry-run, or run on this machine with --cluster local"
        )
    ids: dict[str, str] = {}
    for step in steps:
        waits = [ids[name] for name in step.after if name in ids]
        if step.is_done() and not waits:
            typer.echo(f"{step.name}: skipped, committed before")
            continue
        prepare(step)
        executor = SlurmExecutor(cluster.log_dir / "%j", max_num_timeout=cluster.max_requeues)
        executor.update_parameters(**parameters(step, cluster, waits))
        job = executor.submit(StepJob(step))
        ids[step.name] = job.job_id
        after = f" after {', '.join(waits)}" if waits else ""
        typer.echo(f"{step.name}: job {job.job_id}{after}; logs {job.paths.folder}")
    return 0


def describe(steps: Steps, cluster: ClusterConfig) -> None:
    """Print each step's resolved command and the exact batch script that would be submitted."""
    pending: dict[str, str] = {}
    for step in steps:
        waits = [pending[name] for name in step.after if name in pending]
        if step.is_done() and not waits:
            typer.echo(f"# step {step.name}: committed, would be skipped\n")
            continue
        pending[step.name] = f"JOBID_{step.name.replace('/', '_')}"
        renderer = _Renderer(cluster.log_dir / "%j", max_num_timeout=cluster.max_requeues)
        renderer.update_parameters(**parameters(step, cluster, waits))
        typer.echo(f"# step {step.name} -> {step.out}; every task runs")
        typer.echo(f"#   {shlex.join(['python', '-m', step.package, *step.args])}")
        if waits:
            typer.echo("# JOBID_x stands for the id that Slurm gives to step x")
        typer.echo(renderer.render())


def parameters(step: Step, cluster: ClusterConfig, waits: list[str]) -> dict[str, Any]:
    """What submitit needs for one step. `waits` are the ids of jobs that must succeed first."""
    exports = [f"export {k}={shlex.quote(v)}" for k, v in sorted(cluster.env.items())]
    given: dict[str, Any] = {
        "job_name": step.name.replace("/", "-"),
        "time": cluster.time_min,
        "signal_delay_s": cluster.signal_lead_s,
        "stderr_to_stdout": True,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": None if cluster.memory_gb is None else f"{cluster.memory_gb}GB",
        "dependency": f"afterok:{':'.join(waits)}" if waits else None,
        # A failed `module load` must not go on to start ranks.
        "setup": ["set -e", *cluster.setup, *exports],
        **_shape(step, cluster),
    }
    # A job whose dependency failed otherwise stays in the queue for ever.
    extra: dict[str, Any] = {"requeue": True}
    extra |= {"kill-on-invalid-dep": "yes"} if waits else {}
    given["additional_parameters"] = extra | dict(cluster.slurm_extra)
    return {key: value for key, value in given.items() if value is not None}


def _shape(step: Step, cluster: ClusterConfig) -> dict[str, Any]:
    """Nodes, tasks, cores and GPUs of one job."""
    gpus = int(cluster.gpus_per_node)
    # One failing rank ends the job at once; and srun (22.05 and later) does not take over the
    # cores per task of the allocation.
    shared = ["--kill-on-bad-exit=1", f"--cpus-per-task={cluster.cpus_per_rank}"]
    if step.launch == "ranks":
        return {
            "nodes": cluster.nodes,
            "ntasks_per_node": gpus or cluster.ranks_per_node,
            "gpus_per_node": gpus or None,
            "cpus_per_task": cluster.cpus_per_rank,
            "srun_args": shared,
        }
    if step.launch == "mpi" and cluster.mpi != "none":
        return {
            "nodes": cluster.shard_nodes,
            "ntasks_per_node": cluster.shard_ranks // cluster.shard_nodes,
            "cpus_per_task": 1,
            "srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=1", f"--mpi={cluster.mpi}"],
        }
    return {
        "nodes": 1,
        "ntasks_per_node": 1,
        "gpus_per_node": 1 if gpus and step.package == "pipeline" else None,
        "cpus_per_task": cluster.cpus_per_rank,
        "srun_args": shared,
    }
