"""Where a run runs: everything that differs between sites, and nothing else."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen


class ClusterConfig(Frozen):
    """One site.

    `executor` is `local` (rank processes on this machine), `debug` (in this process, one rank) or
    `slurm` (submitit). `setup` are shell lines run before the job's command, such as `module load`.
    """

    kind: Literal["cluster"]
    executor: Literal["local", "debug", "slurm"]
    nodes: int = Field(default=1, gt=0)
    gpus_per_node: int = Field(default=0, ge=0)
    ranks_per_node: int = Field(default=1, gt=0, description="used where gpus_per_node is 0")
    cpus_per_rank: int = Field(default=1, gt=0)
    shard_ranks: int = Field(default=2, gt=0, description="MPI ranks of a shard-building job")
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
