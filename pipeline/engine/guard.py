"""Steps that would do harm: skipped, and when they come in numbers, gone back behind.

Every decision is made from numbers that are the same on all ranks (the reduced loss, the norm of the
whole gradient), so that all of them decide alike without asking. What the guard remembers is part of
a commit; what it left out for good stands in RUN/guard.json at once, so that a crash does not bring
the data back.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from configs.schema import GuardConfig
from pipeline.engine.distributed import World
from pipeline.engine.errors import DivergedError
from pipeline.engine.lifecycle import write_atomic

FILE = "guard.json"
_MEMORY = 0.98
"""Weight of the past in the running means: about the last fifty steps."""


class Verdict(Enum):
    """What to do after a step."""

    GO_ON = "go on"
    ROLL_BACK = "roll back"


@dataclass
class Running:
    """A running mean that forgets."""

    mean: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        self.mean = _MEMORY * self.mean + (1 - _MEMORY) * value
        self.weight = _MEMORY * self.weight + (1 - _MEMORY)

    @property
    def value(self) -> float:
        return self.mean / self.weight if self.weight else 0.0


@dataclass
class Guard:
    """Judges loss and gradient of each step. `skipped` are (step, first position) of recent skips."""

    config: GuardConfig
    loss: Running = field(default_factory=Running)
    norm: Running = field(default_factory=Running)
    steps: int = 0
    skipped: list[tuple[int, int]] = field(default_factory=list)

    def distrusts(self, loss: float) -> bool:
        """True when a step with this loss must not change the weights."""
        limit = self._limit(self.loss)
        return not math.isfinite(loss) or 0 < limit < loss

    @property
    def max_norm(self) -> float:
        """The largest norm of a gradient that is let through; 0 for any that is finite."""
        return self._limit(self.norm)

    def take(
        self, step: int, position: int, loss: float, grad_norm: float, applied: bool
    ) -> Verdict:
        """Learn how a step went, and say what to do."""
        if applied:
            self.steps += 1
            self.loss.add(loss)
            self.norm.add(grad_norm)
            return Verdict.GO_ON
        self.skipped.append((step, position))
        self.skipped = [s for s in self.skipped if s[0] > step - self.config.window_steps]
        if len(self.skipped) < self.config.skips_before_rollback:
            return Verdict.GO_ON
        return Verdict.ROLL_BACK

    def state(self) -> dict[str, Any]:
        """What a commit keeps."""
        return {
            "loss": asdict(self.loss),
            "norm": asdict(self.norm),
            "steps": self.steps,
            # A copy: a commit is written while training goes on.
            "skipped": list(self.skipped),
        }

    def restore(self, state: dict[str, Any], left_out: Sequence[tuple[int, int]] = ()) -> None:
        """Go on from a commit; skips over data that is left out since are no reason to go back again."""
        self.loss, self.norm = Running(**state["loss"]), Running(**state["norm"])
        self.steps = state["steps"]
        self.skipped = [
            (step, position)
            for step, position in state["skipped"]
            if not any(start <= position < stop for start, stop in left_out)
        ]

    def _limit(self, running: Running) -> float:
        if not self.config.spike_factor or self.steps < self.config.warmup_steps:
            return 0.0
        return self.config.spike_factor * running.value


class LeftOut:
    """Stretches of the stream of samples that the run goes without, in RUN/guard.json."""

    def __init__(self, folder: Path, max_rollbacks: int, world: World):
        self._path, self._max, self._world = folder / FILE, max_rollbacks, world
        found = []
        if world.is_main and self._path.is_file():
            found = json.loads(self._path.read_text())["left_out"]
        # Read by one: what a network file system shows to others may be older.
        self.stretches = [(start, stop) for start, stop in world.broadcast(found)]

    def add(self, start: int, stop: int) -> None:
        """Leave out positions [start, stop). Raises DivergedError when that happened too often."""
        if len(self.stretches) >= self._max:
            raise DivergedError(
                f"after {self._max} returns to the last commit, steps still had to be skipped at "
                f"positions {start} to {stop}; lower engine.optimizer.lr, or look at the data with "
                "`python -m shards verify`; what was skipped stands in RUN/skipped"
            )
        self.stretches.append((start, stop))
        if self._world.is_main:
            write_atomic(self._path, json.dumps({"left_out": self.stretches}))
