"""From what ranks counted to lines, curves and a word to the person who watches."""

from collections.abc import Iterable
from pathlib import Path

import torch

from configs.schema import RunConfig
from pipeline.data.loader import Damage
from pipeline.engine.base import Forward, StepInfo
from pipeline.engine.damage import DamageLog
from pipeline.engine.distributed import World
from pipeline.engine.flops import peak_flops
from pipeline.engine.metrics import MetricsLog, Window, memory_gb, say
from pipeline.engine.objective import TOKENS, Objective, Remarks

DAMAGED = "engine/damaged"
_SETTLED_STEPS = 100
"""Before that, what looks wrong may be on its way to look right."""


class Reporter:
    """Collects on every rank, writes on the first."""

    def __init__(
        self, config: RunConfig, title: str, objective: Objective, world: World, num_steps: int
    ):
        self._config, self._title, self._objective, self._world = config, title, objective, world
        self._num_steps = num_steps
        self._log: MetricsLog | None = None
        self._damage = DamageLog(config.out, world.rank)
        peak = peak_flops(world.device) if config.engine.precision == "bf16" else None
        self.peak_flops = None if peak is None else peak * world.size
        self._num_skipped = 0
        self._warned: set[str] = set()
        self.window = Window()
        self.flops_per_sample: float | None = None
        self.stalled_s = 0.0

    def open(self, step: int) -> None:
        """Go on with the run's record behind `step`."""
        self._log = MetricsLog(
            self._config.out, self._title, self._num_steps, step, self._config.engine.wandb
        )

    def add(self, outputs: Iterable[Forward], info: StepInfo) -> None:
        """Count a step. One that was not applied counts nowhere: its numbers may not be finite."""
        self.window.steps += 1
        if info.applied:
            for output in outputs:
                self.window.add(output.sums)
        else:
            self._num_skipped += 1

    def report(self, step: int, lr_factor: float, grad_norm: float, found: list[Damage]) -> None:
        """Write the means since the last report. All ranks must call it."""
        window, engine = self.window, self._config.engine
        counted = {DAMAGED: torch.tensor(float(self._damage.write(found)))}
        counted["engine/wait"] = torch.tensor(window.wait_s)
        sums = self._world.sum(window.sums | counted)
        damaged = int(sums.pop(DAMAGED))
        wait_s = float(sums.pop("engine/wait")) / self._world.size
        seconds, num_steps, tokens = window.seconds, window.steps, sums.pop(TOKENS, None)
        window.reset()
        skipped, self._num_skipped = self._num_skipped, 0
        stalled_s, self.stalled_s = self.stalled_s, 0.0
        if self._log is None:
            return
        values = self._objective.summarise(sums) if "count" in sums else {}
        if values:
            self._remark(step, self._objective.remarks(sums))
        rate = num_steps * engine.global_batch / seconds
        values |= {"lr": engine.optimizer.lr * lr_factor, "grad_norm": grad_norm}
        values |= {"samples_per_s": round(rate, 2), "wait_share": round(wait_s / seconds, 4)}
        values["memory_gb"] = round(memory_gb(self._world.device), 3)
        if tokens is not None:
            values["tokens_per_s"] = round(float(tokens) / seconds, 1)
        if self.flops_per_sample is not None and self.peak_flops is not None:
            values["mfu"] = round(self.flops_per_sample * rate / self.peak_flops, 4)
        if stalled_s:
            values["save_stall_s"] = round(stalled_s, 4)
        if skipped:
            values["skipped_steps"] = skipped
        if damaged:
            values["damaged_samples"] = damaged
            self._say(f"{damaged} damaged samples replaced; see {self._damage.folder}")
        self._log.train(step, values)
        remaining = (self._num_steps - step) * engine.global_batch
        self._log.progress(step, values.get("loss", float("nan")), rate, remaining / rate)

    def evaluated(self, step: int, values: dict[str, float]) -> None:
        if self._log and values:
            self._log.evaluation(step, values)

    def monitored(self, step: int, values: dict[str, float]) -> None:
        """What was seen of the model, and the `seconds` that it took, which the speed leaves out."""
        self.window.leave_out(values["seconds"])
        if self._log:
            self._log.monitored(step, values)
            seen = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._say(f"step {step} seen: {seen}")

    def warn(self, step: int, text: str) -> None:
        """Something that a person should look at."""
        if self._log:
            self._log.event(step, "warning", text=text)
            self._say(f"warning: {text}")

    def skipped(self, step: int, loss: float, grad_norm: float, samples: Path) -> None:
        """A step that changed nothing."""
        if self._log:
            self._log.event(step, "skipped", loss=loss, grad_norm=grad_norm)
            self._say(
                f"step {step} skipped: loss {loss:.4g}, gradient norm {grad_norm:.4g}; its samples "
                f"stand in {samples.parent}"
            )

    def rewind(self, step: int, left: int, stretch: tuple[int, int]) -> None:
        """The run went back."""
        self.window.reset()
        self._num_skipped = 0
        if self._log:
            self._log.rewind(step)
            self._log.event(left, "rolled back", to=step, left_out=list(stretch))
            self._say(
                f"too many skipped steps at step {left}: back to the commit of step {step}, without "
                f"samples {stretch[0]} to {stretch[1]} of the stream"
            )

    def close(self) -> None:
        if self._log:
            self._log.close()

    def _remark(self, step: int, remarks: Remarks) -> None:
        assert self._log is not None
        self._log.histograms(step, remarks.histograms)
        for warning in remarks.warnings:
            if step >= _SETTLED_STEPS and warning not in self._warned:
                self._warned.add(warning)
                self.warn(step, warning)

    def _say(self, text: str) -> None:
        say(f"{self._title:<18} {text}")
