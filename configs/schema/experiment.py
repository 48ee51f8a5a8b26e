"""A chain of steps that belong together: shards, tokenizers, tokens, stage 2, generation, report."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen


class StepConfig(Frozen):
    """One configuration file and what this experiment changes in it."""

    config: Path
    overrides: tuple[str, ...] = ()


class GenerateStep(StepConfig):
    """One generation task: `source` modalities in, `target` modalities out."""

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] = Field(min_length=1)


class ExperimentConfig(Frozen):
    """The whole chain; every output lies under `out`, so that it can be found again and resumed.

    `stage1` maps each modality to its own overrides, applied after those of `stage1_base`.
    """

    kind: Literal["experiment"]
    title: str
    out: Path
    synthetic: bool = Field(default=False, description="true where the samples are not real ones")
    shards: StepConfig
    stage1_base: StepConfig
    stage1: dict[str, tuple[str, ...]]
    tokenize: StepConfig
    stage2: StepConfig
    generate: dict[str, GenerateStep] = {}
