"""What a run says while it runs: JSON lines first, TensorBoard curves, one line for a person."""

import hashlib
import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from configs import ConfigError

FILE = "metrics.jsonl"
_BUCKETS = 256


class MetricsLog:
    """Rank 0's record. After a resume, lines from beyond the resumed step are dropped, so that the
    file reads like that of an undisturbed run.
    """

    def __init__(self, folder: Path, title: str, num_steps: int, step: int, wandb: str = ""):
        self._path = folder / FILE
        self._title, self._num_steps = title, num_steps
        keep_until(self._path, step)
        self._file = self._path.open("a")
        self._wandb = _wandb_run(wandb, folder, title) if wandb else None
        # TensorBoard pulls in slow imports; it is only needed once there is something to write.
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """One line of training values, averaged since the last."""
        self._write({"step": step, **values})
        self._draw("train", step, values)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """One line of held-out values."""
        self._write({"step": step, "eval": values})
        self._draw("eval", step, values)
        self._board.flush()

    def monitored(self, step: int, values: dict[str, float]) -> None:
        """One line of what a monitor saw."""
        self._write({"step": step, "monitor": values})
        self._draw("monitor", step, values)
        self._board.flush()

    def histograms(self, step: int, counts: Mapping[str, torch.Tensor]) -> None:
        """How often each thing of a row of them occurred, [V] each, for TensorBoard alone."""
        for name, values in counts.items():
            buckets = values.double().cpu().tensor_split(min(len(values), _BUCKETS))
            sizes = [float(len(bucket)) for bucket in buckets]
            limits = list(itertools.accumulate(sizes))
            sums = [float(bucket.sum()) for bucket in buckets]
            self._board.add_histogram_raw(
                f"train/{name}", 0.0, limits[-1], sum(sums), 0.0, 0.0, limits, sums, step
            )

    def event(self, step: int, what: str, **about: Any) -> None:
        """One line about something that happened: a skipped step, a return to a commit."""
        self._write({"step": step, "event": what, **about})

    def progress(self, step: int, loss: float, samples_per_s: float, eta_s: float) -> None:
        """The line a person reads: where, how well, how fast, how long still."""
        say(
            f"{self._title:<18} step {step:>{len(str(self._num_steps))}}/{self._num_steps}  "
            f"loss {loss:8.4f}  {samples_per_s:7.1f} samples/s  eta {clock(eta_s)}"
        )

    def rewind(self, step: int) -> None:
        """Drop what was written beyond `step`, to which the run goes back; events stay."""
        self._file.close()
        keep_until(self._path, step, events=True)
        self._file = self._path.open("a")

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _draw(self, group: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{group}/{n}": v for n, v in values.items()}, step=step)

    def _write(self, line: dict[str, Any]) -> None:
        line = {**line, "time": round(time.time(), 3)}
        # JSON has no NaN and no infinity; a reader in another language would stop there.
        line = {k: None if _is_no_number(v) else v for k, v in line.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Window:
    """Sums since the last report, kept on the device so that adding them up stalls nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()
        self.steps = 0
        self.wait_s = 0.0

    def leave_out(self, seconds: float) -> None:
        """Time in which nothing was trained on purpose."""
        self._started += seconds

    def add(self, sums: dict[str, torch.Tensor]) -> None:
        for name, value in sums.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach() if held is None else held + value.detach()

    @property
    def sums(self) -> dict[str, torch.Tensor]:
        return self._sums

    @property
    def seconds(self) -> float:
        return max(time.perf_counter() - self._started, 1e-9)


def memory_gb(device: torch.device) -> float:
    """The most memory this process has held so far: of its GPU, or of the host where it uses none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's record; a line cut by a crash is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    return _lines(path)


def clock(seconds: float) -> str:
    """3725 -> 1h02m, 65 -> 1m05s; `?` while unknown."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def say(text: str) -> None:
    """One line to the person at the terminal, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def keep_until(path: Path, step: int, *, events: bool = False) -> None:
    """Drop the lines of a record that lie beyond a step, whole lines and halves; or all but events."""
    if not path.is_file():
        return
    lines = _lines(path)
    # What was left out when the run went back to a commit stays left out, and will not happen again.
    settled = max((i for i, x in enumerate(lines) if x.get("event") == "rolled back"), default=-1)
    kept = [
        line
        for i, line in enumerate(lines)
        if line["step"] <= step or ("event" in line and (events or i <= settled))
    ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.rename(path)


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _wandb_run(project: str, folder: Path, title: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"engine.wandb={project} needs the package wandb: pip install wandb, or leave it empty"
        ) from error
    # The same id after every restart: one curve, whatever happened on the way.
    run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, name=title, id=run_id, resume="allow", dir=str(folder))
