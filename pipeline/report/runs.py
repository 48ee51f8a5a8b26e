"""One training run as its folder tells it, in whatever state it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.files import Record, dig, read_json, read_lines, read_objects, read_yaml

# No exit is known of; an end in order; a commit on request; INT, TERM and HUP.
_INTERRUPTED = (None, 0, 75, 129, 130, 143)


@dataclass(frozen=True)
class TrainingRun:
    """One stage-1 or stage-2 run. `train`, `evals` and `monitored` are the lines of metrics.jsonl.

    `failure` is why it ended for good without being done, `title` a name that tells it from others.
    """

    folder: Path
    config: Record
    record: Record
    train: list[Record]
    evals: list[Record]
    done: bool
    vocab_size: int | None
    commits: tuple[int, ...]
    failure: str = ""
    title: str = ""
    monitored: tuple[Record, ...] = ()

    @property
    def name(self) -> str:
        if self.title:
            return self.title
        modality = self.config.get("modality")
        words = {"fusion": "late fusion", "multimae": "MultiMAE"}
        if name := words.get(str(self.config.get("kind"))):
            return name
        return f"stage 1 {modality}" if modality else "stage 2"

    @property
    def num_steps(self) -> int:
        return int(dig(self.config, "engine", "num_steps") or 0)

    @property
    def global_batch(self) -> int:
        return int(dig(self.config, "engine", "global_batch") or 0)

    @property
    def step(self) -> int:
        """The last step that left a line."""
        return max((int(line["step"]) for line in (*self.train, *self.evals)), default=0)

    @property
    def last_eval(self) -> Record:
        """Values of the last evaluation; empty before the first."""
        return self.evals[-1]["eval"] if self.evals else {}

    @property
    def state(self) -> str:
        if self.done:
            return "finished"
        if self.failure:
            return f"failed at step {self.step:,}: {self.failure}"
        if not self.config and self.folder.is_dir():
            return "started, but left no record: its log says why"
        if not self.train:
            return "not started"
        return f"unfinished: step {self.step:,} of {self.num_steps:,}"

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one training value."""
        return _points((line["step"], line.get(name)) for line in self.train)

    def eval_curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one held-out value."""
        return _points((line["step"], line["eval"].get(name)) for line in self.evals)

    def monitor_curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of what was seen while training."""
        return _points((line["step"], line["monitor"].get(name)) for line in self.monitored)


def read_run(folder: Path, notes: list[str], title: str = "") -> TrainingRun:
    """What a run's folder says; of one that is not there, that it has not started."""
    lines = read_lines(folder / "metrics.jsonl", notes)
    done = read_json(folder / "DONE", notes)
    commits = (p.parent.name for p in folder.glob("checkpoints/step-*/MANIFEST.json"))
    return TrainingRun(
        folder=folder,
        config=read_yaml(folder / "config.yaml", notes),
        record=read_json(folder / "run.json", notes),
        train=[line for line in lines if not {"eval", "monitor"} & line.keys()],
        evals=[line for line in lines if isinstance(line.get("eval"), dict)],
        done=(folder / "DONE").is_file(),
        vocab_size=done.get("vocab_size"),
        commits=tuple(sorted(int(c[5:]) for c in commits if c[5:].isdigit())),
        failure=_failure(folder, notes),
        title=title,
        monitored=tuple(line for line in lines if isinstance(line.get("monitor"), dict)),
    )


def _failure(folder: Path, notes: list[str]) -> str:
    """Why the run ended for good: its own word, or the exit code that its launcher wrote down."""
    told = read_json(folder / "FAILED", notes)
    if told:
        return str(told.get("reason", "no reason given"))
    exits = read_objects(folder / "exits.jsonl", notes)
    last = exits[-1] if exits else {}
    code = last.get("code")
    return "" if last.get("again") or code in _INTERRUPTED else f"exit code {code}"


def _points(pairs: Any) -> list[tuple[float, float]]:
    return [
        (float(step), float(value))
        for step, value in pairs
        if isinstance(value, int | float) and np.isfinite(value)
    ]
