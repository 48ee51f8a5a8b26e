"""What `python -m pipeline` runs over shards: stage 1, tokenize, stage 2, late fusion, MultiMAE."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen
from configs.schema.data import DataConfig
from configs.schema.engine import EngineConfig
from configs.schema.fusion import FusionConfig
from configs.schema.masked import MaskedConfig
from configs.schema.monitor import MonitorConfig
from configs.schema.multimae import MultiMAEConfig
from configs.schema.tokenizer import TokenizerConfig


class RunConfig(Frozen):
    """What every training run has: a folder, data, and an engine."""

    out: Path
    data: DataConfig
    engine: EngineConfig


class Stage1Config(RunConfig):
    """Train the tokenizer of one modality."""

    kind: Literal["stage1"]
    modality: str
    tokenizer: TokenizerConfig = TokenizerConfig()


class TokenizeConfig(Frozen):
    """Run frozen tokenizers over a shard set; tokens go beside the pixels, same shard and slot.

    `tokenizers` maps a modality to the stage-1 run that made its tokenizer; coordinates and date
    need none. Where the shards have a modality on several dates, all of them are tokenized alike.
    `crops` is the number of fixed windows per side: 1 is the centre, 3 a 3 x 3 grid; each in as many
    `symmetries`: 2 mirrored too, 4 also upside down, 8 all of the square. One is drawn each time a
    sample is trained on.
    """

    kind: Literal["tokenize"]
    data: DataConfig
    tokenizers: dict[str, Path] = {}
    modalities: tuple[str, ...] = ()
    crops: int = Field(default=1, gt=0)
    symmetries: Literal[1, 2, 4, 8] = 1
    coordinates: Literal["cells", "terramind", "fine"] = Field(
        default="cells",
        description="0.25 degrees by cells, as two numbers, or 0.01 degrees by cells",
    )
    batch: int = Field(default=64, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _something(self) -> "TokenizeConfig":
        if not self.tokenizers and not self.modalities:
            raise ValueError("name at least one entry in `tokenizers` or `modalities`")
        return self


class MaskedRunConfig(RunConfig):
    """Train a model to predict hidden tokens from visible ones."""

    masked: MaskedConfig
    monitor: MonitorConfig = MonitorConfig()


class Stage2Config(MaskedRunConfig):
    """Train the masked multi-modal transformer over tokens and pixel patches."""

    kind: Literal["stage2"]


class FusionRunConfig(MaskedRunConfig):
    """Train MLP late fusion for the same objective.

    Of `masked` it takes streams, masking, budgets, loss and `width`; depths, heads and whatever else
    describes attention mean nothing to it.
    """

    kind: Literal["fusion"]
    fusion: FusionConfig

    @model_validator(mode="after")
    def _tokens_only(self) -> "FusionRunConfig":
        if self.masked.pixels:
            raise ValueError(
                "late fusion reads the frozen embeddings of tokens: write masked.pixels=[] and name its "
                "inputs in masked.tokens"
            )
        if self.monitor.sheet is not None:
            raise ValueError("late fusion generates nothing: write monitor.sheet=null")
        if self.masked.dates:
            raise ValueError("late fusion knows no days: leave masked.dates out")
        return self


class MultiMAERunConfig(RunConfig):
    """Train the multi-modal multi-task masked autoencoder on pixels; no tokens are needed."""

    kind: Literal["multimae"]
    multimae: MultiMAEConfig = MultiMAEConfig()
    monitor: MonitorConfig = MonitorConfig()

    @model_validator(mode="after")
    def _no_tokens(self) -> "MultiMAERunConfig":
        if self.monitor.sheet is not None:
            raise ValueError(
                "monitor.sheet: a MultiMAE generates no tokens; its reconstructions are drawn at the end"
            )
        return self
