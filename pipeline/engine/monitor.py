"""Somebody who looks at the model every few steps, while training goes on as if nobody had.

    whole weights -> a copy on rank 0 -> scores and pictures        the other ranks wait

Everything that a look computes, it computes with a copy: no hook of ZeRO runs, and no gradient, mode or
random number of the training changes. What goes wrong in a look is told, and the run goes on.
"""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from pipeline.engine.base import Engine
from pipeline.engine.distributed import World
from pipeline.engine.heartbeat import WAITING, Heartbeat
from pipeline.engine.reporter import Reporter

PHASE = "monitor"


class Monitor(Protocol):
    """What looks. `take` and `look` are called on rank 0 alone, and may raise anything."""

    @property
    def every_steps(self) -> int:
        """Steps from one look to the next; 0: it never looks."""
        ...

    def take(self, model: nn.Module) -> None:
        """Copy the weights of the model, which are whole only now."""
        ...

    def look(
        self, step: int, device: torch.device, progress: Callable[[], None]
    ) -> dict[str, float]:
        """What the copy knows, by name. `progress` is called every few seconds."""
        ...


class Monitoring:
    """A monitor, and when its time comes. All ranks must call `at`."""

    def __init__(
        self,
        monitor: Monitor | None,
        engine: Engine,
        world: World,
        heartbeat: Heartbeat,
        reporter: Reporter,
    ):
        self._monitor, self._engine, self._world = monitor, engine, world
        self._heartbeat, self._reporter = heartbeat, reporter

    def at(self, step: int, *, last: bool) -> None:
        """A step has been made: look where it is due, at averaged weights where an average is kept."""
        monitor = self._monitor
        if monitor is None or not monitor.every_steps:
            return
        if not last and step % monitor.every_steps:
            return
        began, is_main, taken = time.perf_counter(), self._world.is_main, False
        self._heartbeat.at(step, PHASE if is_main else WAITING)
        with self._engine.averaged(), self._engine.whole_model():
            if is_main:
                taken = self._tried(step, lambda: monitor.take(self._engine.model))
        if taken:
            self._tried(step, lambda: self._look(monitor, step, began))
        self._world.barrier()

    def _look(self, monitor: Monitor, step: int, began: float) -> None:
        device = self._world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            values = monitor.look(step, device, lambda: self._heartbeat.at(step, PHASE))
        self._reporter.monitored(step, values | {"seconds": time.perf_counter() - began})

    def _tried(self, step: int, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            # Whatever it is, it is no reason to lose a training.
            self._reporter.warn(step, f"nothing was seen at step {step}: {error!r}")
            return False
        return True
