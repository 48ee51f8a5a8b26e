"""Seconds per part of a training step, forward and backward together.

A clock stands where one part hands over to the next: forward where the parts meet, backward where the
gradient of what was handed over arrives.
"""

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks._products import synchronise
from pipeline.data.loader import Batch
from pipeline.engine.base import Engine


class StepClock:
    """Times the steps of an engine, by hooks of its model that `before` and `after` make."""

    def __init__(self, device: torch.device, first: str):
        """`first` is the part that a step begins with."""
        self._device, self._first = device, first
        self._marks = list[tuple[str, float]]()

    def before(self, ended: str, following: str, which: int = 0) -> Any:
        """A forward pre-hook: `ended` ends where the module gets argument `which`, `following` begins."""
        return lambda _, given: self._hand_over(ended, following, given[which])

    def after(self, ended: str, following: str) -> Any:
        """A forward hook: `ended` ends with what the module returns, `following` begins."""
        return lambda _, given, output: self._hand_over(ended, following, output)

    def step(self, engine: Engine, batch: Batch) -> dict[str, float]:
        """One training step, taken apart."""
        self._marks.clear()
        self._mark("start")
        engine.forward_backward(batch)
        self._mark(self._first)
        engine.step(1.0)
        self._mark("optimizer")
        parts: dict[str, float] = {}
        for (_, began), (name, ended) in zip(self._marks[:-1], self._marks[1:], strict=True):
            parts[name] = parts.get(name, 0.0) + ended - began
        return parts

    def shares(self, engine: Engine, batch: Batch, rounds: int) -> dict[str, float]:
        """Each part's share of a step, by the medians of several."""
        steps = [self.step(engine, batch) for _ in range(rounds)]
        medians = {name: statistics.median(s[name] for s in steps) for name in steps[0]}
        total = sum(medians.values())
        return {name: value / total for name, value in medians.items()}

    def _hand_over(self, ended: str, following: str, handed: Tensor) -> None:
        self._mark(ended)
        handed.register_hook(lambda _: self._mark(following))

    def _mark(self, ended: str) -> None:
        synchronise(self._device)
        self._marks.append((ended, time.perf_counter()))


def remove(handles: list[Any]) -> None:
    """Take hooks away again."""
    for handle in handles:
        handle.remove()
