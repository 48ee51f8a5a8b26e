"""What is packed into shards, from where, and how."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from configs.schema.base import Frozen
from configs.schema.sources import SourceConfig


class ShardsConfig(Frozen):
    """One shard-building job.

    `splits` are shares of samples; membership follows the grid cell of the sample's centre
    (`split_cell_deg` on a side), so that neighbours never fall on both sides of a split. `source`
    takes the splits that the source itself publishes.
    `max_bad` bounds how many samples and parts may be left out before the job fails.
    """

    kind: Literal["shards"]
    source: SourceConfig
    out: Path
    samples_per_shard: int = Field(default=256, gt=0)
    seed: int = 0
    splits: dict[str, float] | Literal["source"] = {"train": 0.9, "val": 0.1}
    split_cell_deg: float = Field(default=0.25, gt=0)
    max_bad: int = Field(default=0, ge=0)

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float] | str) -> dict[str, float] | str:
        if isinstance(value, str):
            return value
        if not value or any(v < 0 for v in value.values()) or abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"split shares must be >= 0 and sum to 1, got {value}")
        return value
