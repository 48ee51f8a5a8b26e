"""Looks at a copy of a model that is still training: what monitors of `pipeline.engine.monitor` share."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

from configs.schema import MonitorConfig
from pipeline.engine.distributed import env_rank
from pipeline.evaluate.probing import Known, Labelled

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class Watcher(ABC, Generic[M]):
    """Made before an engine takes the model: the first rank keeps a copy of it on the host."""

    def __init__(self, config: MonitorConfig, model: M):
        self.every_steps = config.every_steps
        self._copy: M | None = None
        if env_rank() == 0:
            self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    def take(self, model: nn.Module) -> None:
        """Copy the weights, in fp32 whatever they are trained in."""
        assert self._copy is not None
        self._copy.load_state_dict(model.state_dict())

    def look(
        self, step: int, device: torch.device, progress: Callable[[], None]
    ) -> dict[str, float]:
        """Accuracies of probes, and what else `see` does."""
        assert self._copy is not None
        try:
            return self.see(step, self._copy.to(device), progress)
        finally:
            self._copy.to("cpu")

    @abstractmethod
    def see(self, step: int, model: M, progress: Callable[[], None]) -> dict[str, float]:
        """What the copy knows at a step, by name."""


def probed(
    labelled: Labelled[T], features: Callable[[list[Known[T]]], torch.Tensor]
) -> dict[str, float]:
    """Accuracies of both classifiers and of the trivial guess, as metrics name them."""
    values = labelled.accuracies(features) | {"most_frequent": labelled.describe()["most_frequent"]}
    return {f"{name}/{labelled.row.name}": value for name, value in values.items()}
