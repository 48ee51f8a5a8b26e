"""A plan as Slurm jobs, however they are submitted: what is asked of Slurm, and what a script says.

Steps of one kind that wait for the same ones, as the tokenizers of stage 1 do, become one array job,
a task per step that is not done. A script prepares the site, puts the snapshot of the code first and
names what the task works on; from `begin` on slurm/common.sh decides how the job ends.
"""

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from configs import to_yaml
from configs.schema import ClusterConfig
from launch.container import apptainer_command, pyxis_options
from launch.snapshot import Snapshot
from launch.step import Step

Options = dict[str, str | int | bool]


@dataclass(frozen=True)
class Task:
    """A step whose configuration is written down as it is now: the job starts much later."""

    step: Step
    asked: Step
    config_file: Path | None

    def write(self) -> None:
        if self.config_file is not None and not self.config_file.exists():
            self.config_file.parent.mkdir(parents=True, exist_ok=True)
            self.config_file.write_text(to_yaml(self.step.config))


@dataclass(frozen=True)
class Job:
    """One Slurm job: one task, or an array of several."""

    name: str
    tasks: tuple[Task, ...]
    after: frozenset[str]

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1

    @property
    def names(self) -> list[str]:
        return [task.step.name for task in self.tasks]

    @property
    def launch(self) -> str:
        return self.tasks[0].step.launch


@dataclass(frozen=True)
class Site:
    """What all jobs of one submission share: the cluster, the code and the folder they start in."""

    cluster: ClusterConfig
    code: Snapshot
    root: Path
    start_in: Path

    @property
    def log_dir(self) -> Path:
        return self.cluster.log_dir.absolute()


def run_root(steps: tuple[Step, ...], cluster: ClusterConfig) -> Path:
    """The folder of the run that the steps are parts of: that of the experiment or of the step.

    Shards and tokens are data, which a run only uses: what is submitted for them is kept with the logs.
    """
    last = steps[-1]
    return cluster.log_dir if last.kind in ("shards", "tokenize") else last.out


def grouped(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Neighbours of the same kind, shape and dependencies: each group is a job."""
    for _, group in groupby(steps, key=lambda s: (s.kind, s.launch, s.after)):
        yield tuple(group)


def make_job(steps: tuple[Step, ...], root: Path) -> Job:
    """The job of one group, or of what is left of it."""
    first = steps[0]
    name = first.kind if len(steps) > 1 else first.name.replace("/", "-")
    return Job(name, tuple(freeze(step, root) for step in steps), frozenset(first.after))


def freeze(step: Step, root: Path) -> Task:
    """The step with a file of its own for the resolved configuration, in place of path and changes.

    What somebody edits between submission and start then changes nothing.
    """
    if "--config" not in step.args:
        return Task(step, step, None)
    text = to_yaml(step.config)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = f"{step.name.replace('/', '-')}-{digest}.yaml"
    file = root.absolute() / ".launch" / "submitted" / name
    return Task(replace(step, args=(step.args[0], "--config", str(file))), step, file)


def options(job: Job, site: Site, waits: list[str]) -> Options:
    """Every option of sbatch but those for the array and the log; long names, no dashes in front."""
    cluster = site.cluster
    given: dict[str, str | int | bool | None] = {
        "job-name": job.name,
        "chdir": str(site.start_in),
        "time": cluster.time_min,
        "signal": f"USR2@{cluster.signal_lead_s}",
        "requeue": True,
        "open-mode": "append",
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": None if cluster.memory_gb is None else f"{cluster.memory_gb}GB",
        **_shape(job, cluster),
    }
    if waits:
        # A job whose dependency failed otherwise stays in the queue for ever.
        when = "afterany" if job.tasks[0].step.tolerant else "afterok"
        given |= {"dependency": f"{when}:{':'.join(waits)}", "kill-on-invalid-dep": "yes"}
    given |= cluster.slurm_extra
    return {key: value for key, value in given.items() if value is not None and value is not False}


def runs_mpi(job: Job, cluster: ClusterConfig) -> bool:
    return job.launch == "mpi" and cluster.mpi != "none"


def _shape(job: Job, cluster: ClusterConfig) -> dict[str, int | None]:
    """Nodes, tasks, cores and GPUs of one job, or of each task of an array."""
    gpus = int(cluster.gpus_per_node)
    if job.launch == "ranks":
        return {
            "nodes": cluster.nodes,
            "ntasks-per-node": gpus or cluster.ranks_per_node,
            "gpus-per-node": gpus or None,
            "cpus-per-task": cluster.cpus_per_rank,
        }
    if runs_mpi(job, cluster):
        return {
            "nodes": cluster.shard_nodes,
            "ntasks-per-node": cluster.shard_ranks // cluster.shard_nodes,
            "cpus-per-task": 1,
        }
    return {
        "nodes": 1,
        "ntasks-per-node": 1,
        "gpus-per-node": 1 if gpus and job.tasks[0].step.package == "pipeline" else None,
        "cpus-per-task": cluster.cpus_per_rank,
    }


def script_lines(job: Job, site: Site, python: str) -> list[str]:
    """The shell lines between the options of a script and its command."""
    cluster = site.cluster
    lines = ["set -e"]
    if cluster.modules:
        # A batch shell is no login shell, which at many sites alone knows `module`.
        lines += ["command -v module >/dev/null || . /etc/profile"]
        lines += [f"module load {shlex.join(cluster.modules)}"]
    lines += cluster.setup
    lines += [f"export {key}={shlex.quote(value)}" for key, value in sorted(cluster.env.items())]
    code = shlex.quote(str(site.code.folder))
    lines += [
        "",
        "# the code as it was at submission, before any other",
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"PYTHON={shlex.quote(cluster.container.python if cluster.container else python)}",
        f"LOG_DIR={shlex.quote(str(site.log_dir))} MAX_RESTARTS={cluster.max_restarts}",
    ]
    if cluster.container is not None and cluster.container.runtime == "apptainer":
        use_gpus = "gpus-per-node" in options(job, site, [])
        words = apptainer_command(cluster.container, _mounted(site), use_gpus=use_gpus)
        lines += [f"CONTAINER=({shlex.join(words)})"]
    if pyxis := container_options(site):
        lines += [f"SRUN_ARGS=({shlex.join(pyxis)})"]
    lines += [f". {code}/slurm/common.sh", ""]
    if job.is_array:
        lines += ["case $SLURM_ARRAY_TASK_ID in"]
        for number, task in enumerate(job.tasks):
            lines += [f"{number})", *(f"    {line}" for line in _variables(task)), "    ;;"]
        lines += ["esac"]
    else:
        lines += _variables(job.tasks[0])
    return [*lines, 'begin "$out" "$config" "$record"']


def container_options(site: Site) -> list[str]:
    """What srun needs to start ranks in a container by itself."""
    container = site.cluster.container
    if container is None or container.runtime != "pyxis":
        return []
    return pyxis_options(container, _mounted(site))


def _mounted(site: Site) -> tuple[Path, ...]:
    return site.start_in, site.log_dir, site.root.absolute()


def _variables(task: Task) -> list[str]:
    """Where the step commits, its configuration, where that is kept in the end; and what is run."""
    step = task.step
    record = None if task.config_file is None or step.keeps_its_own_record else step.record
    values = {
        "out": step.out.absolute(),
        "config": task.config_file or "",
        "record": "" if record is None else record.absolute(),
    }
    return [
        f"# {step.name}",
        *(f"{key}={shlex.quote(str(value))}" for key, value in values.items()),
        f"command=({shlex.join([step.package, *step.args])})",
    ]
