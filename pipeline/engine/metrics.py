"""What a run says while it runs: JSON lines first, TensorBoard curves, one line for a person."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

FILE = "metrics.jsonl"


class MetricsLog:
    """Rank 0's record. After a resume, lines from beyond the resumed step are dropped, so that the
    file reads like that of an undisturbed run.
    """

    def __init__(self, folder: Path, title: str, num_steps: int, step: int):
        self._path = folder / FILE
        self._title, self._num_steps = title, num_steps
        _keep_until(self._path, step)
        self._file = self._path.open("a")
        # TensorBoard pulls in slow imports; it is only needed once there is something to write.
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def train(self, step: int, values: dict[str, float], samples_per_s: float) -> None:
        """One line of training values, averaged since the last."""
        self._write({"step": step, **values, "samples_per_s": round(samples_per_s, 2)})
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._board.add_scalar("train/samples_per_s", samples_per_s, step)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """One line of held-out values."""
        self._write({"step": step, "eval": values})
        for name, value in values.items():
            self._board.add_scalar(f"eval/{name}", value, step)
        self._board.flush()

    def progress(self, step: int, loss: float, samples_per_s: float, eta_s: float) -> None:
        """The line a person reads: where, how well, how fast, how long still."""
        say(
            f"{self._title:<18} step {step:>{len(str(self._num_steps))}}/{self._num_steps}  "
            f"loss {loss:8.4f}  {samples_per_s:7.1f} samples/s  eta {clock(eta_s)}"
        )

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps({**line, "time": round(time.time(), 3)}) + "\n")
        self._file.flush()


class Window:
    """Sums since the last report, kept on the device so that adding them up stalls nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()
        self.steps = 0

    def add(self, sums: dict[str, torch.Tensor]) -> None:
        for name, value in sums.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach() if held is None else held + value.detach()

    @property
    def sums(self) -> dict[str, torch.Tensor]:
        return self._sums

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's record; a line cut by a crash is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


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


def _keep_until(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.rename(path)
