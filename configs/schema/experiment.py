"""Steps that belong together: the whole pipeline as one chain, or arms of a comparison side by side."""

import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from configs.schema.base import Frozen
from configs.schema.data import FolderOrUrl


class StepConfig(Frozen):
    """One configuration file and what this experiment changes in it."""

    config: Path
    overrides: tuple[str, ...] = ()


class GenerateStep(StepConfig):
    """One generation task: `source` modalities in, `target` modalities out."""

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] = Field(min_length=1)


class TokenChain(Frozen):
    """From a source to a data set with tokens; every output lies under `out`.

    `stage1` maps each modality to its own overrides, applied after those of `stage1_base`.
    """

    title: str
    out: Path
    synthetic: bool = Field(default=False, description="true where the samples are not real ones")
    shards: StepConfig
    stage1_base: StepConfig
    stage1: dict[str, tuple[str, ...]]
    tokenize: StepConfig


class ExperimentConfig(TokenChain):
    """The whole chain; every output lies under `out`, so that it can be found again and resumed.

    `multimae`, where it is given, is trained on the same shards beside it.
    """

    kind: Literal["experiment"]
    stage2: StepConfig
    multimae: StepConfig | None = None
    generate: dict[str, GenerateStep] = {}


Named = TypeVar("Named")


def _named(value: dict[str, Named]) -> dict[str, Named]:
    if not value:
        raise ValueError("name at least one")
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise ValueError(
                f"{name!r} becomes the name of a folder; use letters, digits and . _ + -, and "
                "begin with a letter or a digit"
            )
    return value


def _unique(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or len(set(value)) < len(value) or min(value) < 0:
        raise ValueError("name at least one seed, each once, none below 0")
    return value


class ComparisonConfig(Frozen):
    """Tokenizers side by side: every arm on every modality with every seed, and one page about all.

    A run is `stage1` with the overrides of its modality, then those of its arm, and its seed: arms of
    the same seed see the same windows in the same order. `shards` says how to build the data set, or
    `data` where there is one. Runs are `out/stage1/<MODALITY>/<ARM>/seed-<S>`.
    """

    kind: Literal["comparison"]
    title: str
    out: Path
    synthetic: bool = Field(default=False, description="true where the samples are not real ones")
    shards: StepConfig | None = None
    data: FolderOrUrl | None = None
    stage1: StepConfig
    modalities: dict[str, tuple[str, ...]]
    arms: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...] = (0,)

    _folders = field_validator("modalities", "arms")(_named)
    _once = field_validator("seeds")(_unique)

    @model_validator(mode="after")
    def _one_data_set(self) -> "ComparisonConfig":
        if (self.shards is None) == (self.data is None):
            raise ValueError(
                "give `shards`, how to build the data set, or `data`, the path of one; and "
                "shards=null where the file gives the other"
            )
        return self


class ModelComparisonConfig(TokenChain):
    """Models side by side on one data set with tokens: every arm with every seed, and one page.

    An arm is a stage-2, a late-fusion or a multimae configuration; `budget` are overrides that all of
    them get before their own, those of keys that an arm's kind has. Runs are `out/models/<ARM>/seed-<S>`,
    each with its `evaluation/` and, with `transfer`, what it is worth on labels in `transfer/`: with the
    run's seed, and for arms named in `scratch` also from fresh weights, in `transfer-scratch/`. Arms of
    one seed see the same samples in the same order.
    """

    kind: Literal["model_comparison"]
    budget: tuple[str, ...] = ()
    arms: dict[str, StepConfig]
    seeds: tuple[int, ...] = (0,)
    evaluate: StepConfig | None = None
    transfer: StepConfig | None = None
    scratch: tuple[str, ...] = ()

    _folders = field_validator("arms")(_named)
    _once = field_validator("seeds")(_unique)

    @model_validator(mode="after")
    def _judged(self) -> "ModelComparisonConfig":
        if self.evaluate is None and self.transfer is None:
            raise ValueError("give `evaluate` or `transfer`: nothing would be compared")
        if stray := set(self.scratch) - set(self.arms):
            raise ValueError(f"scratch names {', '.join(sorted(stray))}, which is no arm")
        return self
