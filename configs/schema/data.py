"""Which samples a run sees, and how they are read."""

from pathlib import Path

from pydantic import Field

from configs.schema.base import Frozen


class DataConfig(Frozen):
    """A view of one shard set.

    `statistics` names where normalisation comes from: `manifest` (measured when the shards were
    built), `registry` (each modality's own published set), or a set in `configs/statistics/`.
    """

    shards: Path
    split: str = "train"
    eval_split: str = "val"
    statistics: str = "manifest"
    prefetch_batches: int = Field(default=2, ge=0)
    verify_digests: bool = True
