"""Any-to-any generation from a trained stage-2 run."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen
from configs.schema.data import DataConfig


class GenerateConfig(Frozen):
    """Modalities in, other modalities out, decoded to pixels and scored where truth is there.

    `estimate` decides what a map is: `draw` draws tokens in `steps` rounds at a `temperature` (0 takes
    the most likely) and sums `num_draws` of them up by their mean, or per pixel by the most frequent
    class; `expected` decodes each token's expected latent, given the sources alone: no detail that the
    sources do not tell, and the smaller error. Texts, places and dates are drawn once. `num_pictures`
    bounds the rows of the picture sheet.
    """

    kind: Literal["generate"]
    run: Path
    out: Path
    data: DataConfig
    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] = Field(min_length=1)
    split: str = "val"
    num_samples: int = Field(default=64, gt=0)
    batch: int = Field(default=16, gt=0)
    estimate: Literal["draw", "expected"] = "draw"
    steps: int = Field(default=8, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    num_draws: int = Field(default=1, gt=0)
    seed: int = 0
    num_pictures: int = Field(default=6, gt=0)
