"""What a stage gives the training loop: samples, a model that knows its loss, and evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from pipeline.data.loader import Batch
from shards import SampleSet

Sums = dict[str, Tensor]
"""Quantities that add up over samples, micro-batches and ranks."""


class StepOutput(NamedTuple):
    """What a model's forward returns: a tuple, in which ZeRO-3 finds the tensors that it has to watch.

    `loss` is one value per sample, [B]: only sums over samples are independent of how a batch is cut
    over ranks and micro-batches. `sums` are reduced and turned into log values by `summarise`;
    `count`, the number of samples, is always among them.

    `stats` and `rows` are what a model learns from without a gradient: after an update, its `absorb`
    is given `stats` summed over the global batch, and `rows` of all its samples in stream order.
    `judged` is the batch of a critic, without gradient.
    """

    loss: Tensor
    sums: Sums
    stats: Mapping[str, Tensor] = {}
    rows: Mapping[str, Tensor] = {}
    judged: Mapping[str, Tensor] = {}


class Critic(NamedTuple):
    """A second model that learns to judge what the first one makes, at a rate of its own.

    Its batches are what the first gave it to judge; its forward returns a StepOutput.
    """

    model: nn.Module
    lr_ratio: float


class Remarks(NamedTuple):
    """What is to be seen beside curves: how often each of many things occurred, and what looks wrong."""

    histograms: Mapping[str, Tensor] = {}
    warnings: tuple[str, ...] = ()


TOKENS = "engine/tokens"
"""Name of the sum that counts tokens, from which the loop makes tokens per second."""


class Objective(Protocol):
    """One stage; everything but the model is data and words.

    `model(batch)` returns a StepOutput, and `model(batch, evaluate=True)` one whose sums are those of
    a held-out batch. Both go through `forward`: under ZeRO-3 weights are there inside it only.
    """

    model: nn.Module
    critic: Critic | None

    @property
    def dataset(self) -> SampleSet:
        """Where the samples come from."""
        ...

    @property
    def indices(self) -> np.ndarray:
        """Data-set indices to train on, ascending."""
        ...

    @property
    def tokens_per_sample(self) -> int:
        """Input and target tokens that a sample takes through the model; 0 where that means nothing."""
        ...

    @property
    def eval_indices(self) -> np.ndarray:
        """Held-out data-set indices, ascending; may be empty."""
        ...

    def sample(self, index: int, rng: np.random.Generator, cursor: int) -> Any:
        """Read and transform one training sample; all its randomness comes from `rng`.

        `cursor` is where its step starts in the stream: what all samples of a step share comes from it.
        """
        ...

    def eval_sample(self, index: int, rng: np.random.Generator) -> Any:
        """The same without augmentation."""
        ...

    def collate(self, samples: list[Any]) -> Batch:
        """Samples -> one batch of CPU tensors."""
        ...

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Reduced sums -> the values that are logged."""
        ...

    def remarks(self, sums: Sums) -> Remarks:
        """What else the reduced sums of training steps say."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What must not change between a run and its resumption: model and data."""
        ...

    def finish(self, folder: Path) -> None:
        """Write what the finished run leaves behind (rank 0 only): artifact, pictures."""
        ...
