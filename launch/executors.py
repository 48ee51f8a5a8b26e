"""Run a plan in the foreground: rank processes on this machine, or all in this very process.

One tidy line per step; a step whose output is committed with the same configuration is skipped,
unless a step it waits for has just run. `launch.slurm` submits the same plan to Slurm.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import typer

from configs import to_yaml
from configs.schema import ClusterConfig
from launch.call import call
from launch.errors import PREEMPTED
from launch.mpi import QUIET, find_mpiexec, mpi_command
from launch.ranks import Outcome, free_port, rank_environment, run_ranks
from launch.restarts import FINAL, GAVE_UP, Restarts
from launch.step import Step

Steps = tuple[Step, ...]


def run_here(steps: Steps, cluster: ClusterConfig) -> int:
    """Run every step, one after another, and return the first exit code that is not 0.

    A step that fails ends it, unless all that wait for it are tolerant.
    """
    run_step = {"local": run_local, "debug": run_debug}[cluster.executor]
    width = max(len(step.name) for step in steps)
    ran: set[str] = set()
    first_failure = 0
    for step in steps:
        prepare(step)
    for number, step in enumerate(steps, start=1):
        label = f"[{number}/{len(steps)}] {step.name:<{width}}"
        if step.is_done() and not ran.intersection(step.after):
            typer.echo(f"{label}  skipped   committed before")
            continue
        typer.echo(f"{label}  running")
        begin = time.monotonic()
        outcome = run_step(step, cluster)
        took_s = time.monotonic() - begin
        if outcome.code != 0:
            typer.echo(f"{label}  {'stopped' if outcome.stopped else 'failed'}   {took_s:.1f} s")
            if outcome.stopped:
                typer.echo(f"{outcome.message}; the same command goes on from here", err=True)
            else:
                typer.echo(f"error: step {step.name}: {outcome.message}", err=True)
            waiting = [other for other in steps if step.name in other.after]
            if outcome.stopped or not waiting or not all(s.tolerant for s in waiting):
                return outcome.code
            first_failure = first_failure or outcome.code
            continue
        ran.add(step.name)
        step.write_record()
        typer.echo(f"{label}  done      {took_s:.1f} s")
    return first_failure


def prepare(step: Step) -> None:
    """What a step's command reads beside its own configuration: a report reads the experiment."""
    if step.kind == "report":
        step.out.mkdir(parents=True, exist_ok=True)
        (step.out / "experiment.yaml").write_text(to_yaml(step.config))


def run_local(step: Step, cluster: ClusterConfig) -> Outcome:
    """One step as child processes, started again as `launch.restarts` decides."""
    command, environments = local_commands(step, cluster)
    log_dir = step.logs or cluster.log_dir / step.name
    restarts = Restarts(step.out, cluster.max_restarts)
    while True:
        restarts.begin()
        outcome = run_ranks(
            command, environments(), log_dir=log_dir, append=restarts.num_starts > 1
        )
        reason = "" if outcome.stopped else restarts.again(outcome.code)
        restarts.tell(outcome.code, again=bool(reason))
        if not reason:
            break
        if outcome.message:
            typer.echo(f"{step.name}: {outcome.message}", err=True)
        typer.echo(f"{step.name}: {reason}")
    if restarts.called_off:
        return Outcome(GAVE_UP, message=f"called off by {step.out / 'KILL'}; remove it to go on")
    if outcome.code not in FINAL and restarts.num_after_crash and restarts.exhausted:
        used_up = f"not started again after {restarts.limit} crashes (max_restarts)"
        return replace(outcome, message=f"{outcome.message}\n{used_up}")
    return outcome


def run_debug(step: Step, _: ClusterConfig) -> Outcome:
    """One step in this process, one rank, so that a breakpoint works."""
    code = call(step)
    # Nobody else sends this process a signal: a step that left for one takes the whole plan along.
    stopped = code == PREEMPTED
    return Outcome(code, stopped, f"exit code {code}; its output is above")


def local_commands(
    step: Step, cluster: ClusterConfig
) -> tuple[list[str], Callable[[], list[dict[str, str]]]]:
    """The command of a step on this machine, and a function that makes the environment per process.

    A function, because every start wants a port that is free then.
    """
    if step.launch == "ranks":
        num_ranks = num_local_ranks(cluster)

        def environments() -> list[dict[str, str]]:
            port = free_port()
            shared = _environment(cluster, num_ranks)
            return [shared | rank_environment(r, num_ranks, port) for r in range(num_ranks)]

        return step.command, environments
    command = step.command
    if step.launch == "mpi" and cluster.shard_ranks > 1:
        mpiexec = find_mpiexec()
        if mpiexec is None:
            typer.echo(f"{step.name}: one process, as there is no mpi4py or no mpiexec")
        else:
            command = mpi_command(mpiexec, cluster.shard_ranks, command)
            return command, lambda: [_environment(cluster, cluster.shard_ranks) | QUIET]
    return command, lambda: [_environment(cluster, 1)]


def num_local_ranks(cluster: ClusterConfig) -> int:
    """One rank per GPU, or `ranks_per_node` where none is used."""
    gpus = cluster.gpus_per_node
    return (count_gpus(os.environ) if gpus == "auto" else gpus) or cluster.ranks_per_node


def count_gpus(environment: Mapping[str, str]) -> int:
    """The CUDA devices of this machine that `environment` lets a process see, without torch."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() not in ("", "-1")])
    if (tool := shutil.which("nvidia-smi")) is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def describe(steps: Steps, cluster: ClusterConfig) -> None:
    """Print what `run_here` would run: each process with what is added to its environment."""
    for step in steps:
        state = "  (committed: would be skipped)" if step.is_done() else ""
        typer.echo(f"# step {step.name} -> {step.out}{state}")
        if cluster.executor == "debug":
            typer.echo(f"# in this process: {step.package}.__main__.main({list(step.args)!r})\n")
            continue
        command, environments = local_commands(step, cluster)
        for environment in environments():
            added = sorted(f"{k}={v}" for k, v in environment.items() if os.environ.get(k) != v)
            typer.echo(shlex.join(["env", *added, *command]))
        typer.echo("")


def _environment(cluster: ClusterConfig, num_processes: int) -> dict[str, str]:
    """This process's environment for children that share the machine's cores between them."""
    # Whatever started this process may have been a rank itself.
    base = {k: v for k, v in os.environ.items() if k not in rank_environment(0, 1, 0)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    base.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // num_processes)))
    # Gloo otherwise looks up this machine's host name, which need not resolve.
    base.setdefault("GLOO_SOCKET_IFNAME", "lo" if Path("/sys/class/net/lo").exists() else "lo0")
    if cluster.gpus_per_node == 0:
        base["CUDA_VISIBLE_DEVICES"] = ""
    return base | cluster.env
