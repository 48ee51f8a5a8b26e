"""Where a run runs: everything that differs between sites, and nothing else."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen


class ClusterConfig(Frozen):
    """One site.

    `executor` is `local` (rank processes on this machine), `debug` (in this process, one rank) or
    `slurm` (submitit). There is one rank per GPU, or `ranks_per_node` where there are no GPUs;
    `gpus_per_node: auto` counts those of this machine. `setup` are shell lines run before the job's
    command, such as `module load`. `mpi` names the srun plugin that starts MPI ranks; `none` builds
    shards in one process.
    """

    kind: Literal["cluster"]
    executor: Literal["local", "debug", "slurm"]
    nodes: int = Field(default=1, gt=0)
    gpus_per_node: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    ranks_per_node: int = Field(default=1, gt=0, description="used where there are no GPUs")
    cpus_per_rank: int = Field(default=1, gt=0)
    shard_ranks: int = Field(default=2, gt=0, description="MPI ranks of a shard-building job")
    shard_nodes: int = Field(default=1, gt=0, description="nodes the MPI ranks are spread over")
    mpi: str = "pmix"
    time_min: int = Field(default=60, gt=0)
    signal_lead_s: int = Field(default=300, gt=0)
    max_requeues: int = Field(default=30, ge=0)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    memory_gb: int | None = Field(default=None, gt=0)
    setup: tuple[str, ...] = ()
    env: dict[str, str] = {}
    slurm_extra: dict[str, str | int | bool] = {}
    log_dir: Path = Path("runs/slurm")

    @model_validator(mode="after")
    def _fits_executor(self) -> "ClusterConfig":
        if self.executor == "slurm":
            if self.gpus_per_node == "auto":
                raise ValueError(
                    "gpus_per_node: auto counts the GPUs of this machine; give a number"
                )
            if self.shard_ranks % self.shard_nodes:
                raise ValueError("shard_ranks must be a multiple of shard_nodes")
        elif self.nodes > 1:
            raise ValueError(f"executor {self.executor} runs on one node; nodes must be 1")
        elif self.setup:
            raise ValueError("setup lines run in a Slurm job only; set them in your shell instead")
        return self
