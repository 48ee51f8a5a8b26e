"""Where a run runs: everything that differs between sites, and nothing else."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.base import Frozen


class ContainerConfig(Frozen):
    """The container every rank of a Slurm job runs in.

    `runtime` is `apptainer` (the command is run by `apptainer exec`) or `pyxis` (srun starts the
    image itself). `mounts` are SOURCE, SOURCE:TARGET or SOURCE:TARGET:OPTIONS, absolute; the folder
    of the submission and what the launcher writes are mounted anyway, at their own paths. `python`
    is the interpreter inside the image.
    """

    image: str = Field(min_length=1)
    runtime: Literal["apptainer", "pyxis"] = "apptainer"
    mounts: tuple[str, ...] = ()
    python: str = "python3"

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            parts = mount.split(":")
            if len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
                raise ValueError(
                    f"{mount!r} is not a mount; write /SOURCE, /SOURCE:/TARGET or /SOURCE:/TARGET:ro"
                )
        return mounts


class ClusterConfig(Frozen):
    """One site.

    `executor` is `local` (rank processes on this machine), `debug` (in this process, one rank), or
    Slurm: `slurm` (through submitit) or `sbatch` (scripts of our own). There is one rank per GPU, or
    `ranks_per_node` where there are no GPUs; `gpus_per_node: auto` counts those of this machine.
    `mpi` names the srun plugin that starts MPI ranks; `none` builds shards in one process.

    A Slurm job's script loads `modules`, runs the shell lines in `setup`, exports `env`, and starts
    its ranks, in `container` if there is one. `slurm_extra` are further options of sbatch.
    """

    kind: Literal["cluster"]
    executor: Literal["local", "debug", "slurm", "sbatch"]
    nodes: int = Field(default=1, gt=0)
    gpus_per_node: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    ranks_per_node: int = Field(default=1, gt=0, description="used where there are no GPUs")
    cpus_per_rank: int = Field(default=1, gt=0)
    shard_ranks: int = Field(default=2, gt=0, description="MPI ranks of a shard-building job")
    shard_nodes: int = Field(default=1, gt=0, description="nodes the MPI ranks are spread over")
    mpi: str = "pmix"
    time_min: int = Field(default=60, gt=0)
    signal_lead_s: int = Field(default=300, gt=0, le=65535, description="USR2 before the limit")
    max_restarts: int = Field(
        default=30, ge=0, description="after crashes that got further; a preemption always goes on"
    )
    array_parallelism: int | None = Field(
        default=None, gt=0, description="tasks of one Slurm array that may run at once"
    )
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    memory_gb: int | None = Field(default=None, gt=0)
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: dict[str, str] = {}
    container: ContainerConfig | None = None
    slurm_extra: dict[str, str | int | bool] = {}
    log_dir: Path = Path("runs/slurm")

    @field_validator("env")
    @classmethod
    def _names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"{name!r} cannot be the name of an environment variable")
        return env

    @model_validator(mode="after")
    def _fits_executor(self) -> "ClusterConfig":
        if self.executor in ("slurm", "sbatch"):
            self._fits_slurm()
            return self
        if self.nodes > 1:
            raise ValueError(f"executor {self.executor} runs on one node; nodes must be 1")
        for name in ("modules", "setup", "container", "array_parallelism"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} has a meaning in a Slurm job only; prepare your shell instead, or set "
                    "executor: slurm or sbatch"
                )
        return self

    def _fits_slurm(self) -> None:
        if self.gpus_per_node == "auto":
            raise ValueError("gpus_per_node: auto counts the GPUs of this machine; give a number")
        if self.shard_ranks % self.shard_nodes:
            raise ValueError("shard_ranks must be a multiple of shard_nodes")
        if self.mpi == "mpiexec":
            raise ValueError(
                "mpi names a plugin of srun (`srun --mpi=list` shows them), or none; mpiexec works "
                "by hand: MPI=mpiexec sbatch slurm/shards.sbatch"
            )
        if self.signal_lead_s >= 60 * self.time_min:
            raise ValueError(
                f"signal_lead_s: {self.signal_lead_s} is not less than the whole time of a job, "
                f"time_min: {self.time_min}; its ranks would leave at once"
            )
