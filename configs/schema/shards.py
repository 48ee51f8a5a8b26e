"""What is packed into shards, from where, and how."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from configs.schema.base import Frozen


class SyntheticSourceConfig(Frozen):
    """The synthetic Earth: seeded, physically coupled samples, made on the fly.

    `missing` is the share of samples that lack each modality; `missing_by` overrides it per modality.
    `tile_px` counts pixels of 10 m and must be a multiple of 3, because Landsat lies on a 30 m grid.
    """

    type: Literal["synthetic"] = "synthetic"
    num_samples: int = Field(default=512, gt=0)
    tile_px: int = Field(default=96, gt=0, multiple_of=3)
    seed: int = 0
    missing: float = Field(default=0.1, ge=0, lt=1)
    missing_by: dict[str, float] = {}
    modalities: tuple[str, ...] = ()


class GeoTiffSourceConfig(Frozen):
    """A folder per modality, a GeoTIFF per sample: `path/<MODALITY>/<id>.tif`."""

    type: Literal["geotiff"] = "geotiff"
    path: Path
    modalities: tuple[str, ...] = ()
    suffix: str = ".tif"


SourceConfig = Annotated[SyntheticSourceConfig | GeoTiffSourceConfig, Field(discriminator="type")]


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
