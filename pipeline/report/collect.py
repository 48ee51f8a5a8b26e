"""What a folder holds, read from files alone, in whatever state a run has left them.

Nothing here raises for a file that is missing, unfinished or damaged: what is missing is empty,
what is damaged is named in `notes`.
"""

import json
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from configs import modality_registry
from configs.registry import in_registry_order
from configs.schema import Modality
from shards import Dataset, ShardError, open_dataset

Record = dict[str, Any]


@dataclass(frozen=True)
class TrainingRun:
    """One stage-1 or stage-2 run. `train` and `evals` are the lines of metrics.jsonl."""

    folder: Path
    config: Record
    record: Record
    train: list[Record]
    evals: list[Record]
    done: bool
    vocab_size: int | None
    commits: tuple[int, ...]

    @property
    def name(self) -> str:
        modality = self.config.get("modality")
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
        if not self.train:
            return "not started"
        return f"unfinished: step {self.step:,} of {self.num_steps:,}"

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one training value."""
        return _points((line["step"], line.get(name)) for line in self.train)

    def eval_curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one held-out value."""
        return _points((line["step"], line["eval"].get(name)) for line in self.evals)


@dataclass(frozen=True)
class Generation:
    """One generation task; `scores` and `arrays` are empty until it has finished."""

    folder: Path
    config: Record
    scores: Record
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def source(self) -> list[str]:
        return list(self.scores.get("source") or self.config.get("source") or [])

    @property
    def target(self) -> list[str]:
        return list(self.scores.get("target") or self.config.get("target") or [])


@dataclass
class Found:
    """Everything in a folder. `single` names the kind of a lone run's folder; "" for an experiment."""

    folder: Path
    single: str = ""
    dataset: Dataset | None = None
    stage1: dict[str, TrainingRun] = field(default_factory=dict)
    stage2: TrainingRun | None = None
    generations: list[Generation] = field(default_factory=list)
    shards_config: Record = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    title: str = ""

    @property
    def synthetic(self) -> bool:
        source = self.dataset.manifest.get("source") if self.dataset else None
        return dig(source or self.shards_config.get("source"), "type") == "synthetic"

    @property
    def runs(self) -> list[TrainingRun]:
        return [*self.stage1.values(), *([self.stage2] if self.stage2 else [])]

    def modality(self, name: str) -> Modality | None:
        """The row the shards were made with, else today's registry row; None for a foreign name."""
        rows = self.dataset.modalities if self.dataset else {}
        row, today = rows.get(name), modality_registry().get(name)
        # How a map is shown is no property of the data: pictures follow today's registry.
        return row.model_copy(update={"display": today.display}) if row and today else row or today


def collect(folder: Path) -> Found:
    """Read an experiment's folder, or that of a single run."""
    found = Found(folder)
    config = _yaml(folder / "config.yaml", found.notes)
    kind = config.get("kind")
    if (folder / "manifest.json").is_file():
        found.single = "shards"
        found.dataset = _dataset(folder, found.notes)
    elif kind in ("stage1", "stage2", "generate"):
        found.single = kind
        _add_single(found, config)
    else:
        _add_experiment(found)
    return found


def _add_single(found: Found, config: Record) -> None:
    shards = dig(config, "data", "shards")
    if shards and (Path(shards) / "manifest.json").is_file():
        found.dataset = _dataset(Path(shards), found.notes)
    if found.single == "generate":
        found.generations = [_generation(found.folder, found.notes)]
    elif found.single == "stage2":
        found.stage2 = _run(found.folder, found.notes)
    else:
        found.stage1 = {str(config.get("modality")): _run(found.folder, found.notes)}


def _add_experiment(found: Found) -> None:
    folder, notes = found.folder, found.notes
    found.title = str(_yaml(folder / "experiment.yaml", notes).get("title", ""))
    if (folder / "shards" / "manifest.json").is_file():
        found.dataset = _dataset(folder / "shards", notes)
    found.shards_config = _yaml(folder / ".launch" / "shards.yaml", notes)
    stage1 = {p.name: _run(p, notes) for p in _folders(folder / "stage1")}
    known = [name for name in stage1 if name in modality_registry()]
    notes += [f"{folder / 'stage1' / n}: no such modality" for n in stage1.keys() - set(known)]
    found.stage1 = {name: stage1[name] for name in in_registry_order(known)}
    if (folder / "stage2").is_dir():
        found.stage2 = _run(folder / "stage2", notes)
    tasks = [_generation(p, notes) for p in _folders(folder / "generate")]
    found.generations = sorted(tasks, key=lambda task: _place(task.source))


def _place(names: list[str]) -> list[int]:
    """Sorts tasks as the registry sorts their sources; names it does not know go last."""
    rows = modality_registry()
    return [rows[n].order if n in rows else sys.maxsize for n in names] or [sys.maxsize]


def _run(folder: Path, notes: list[str]) -> TrainingRun:
    lines = _metrics(folder / "metrics.jsonl", notes)
    done = _json(folder / "DONE", notes)
    commits = (p.parent.name for p in folder.glob("checkpoints/step-*/MANIFEST.json"))
    return TrainingRun(
        folder=folder,
        config=_yaml(folder / "config.yaml", notes),
        record=_json(folder / "run.json", notes),
        train=[line for line in lines if "eval" not in line],
        evals=[line for line in lines if isinstance(line.get("eval"), dict)],
        done=(folder / "DONE").is_file(),
        vocab_size=done.get("vocab_size"),
        commits=tuple(sorted(int(c[5:]) for c in commits if c[5:].isdigit())),
    )


def _generation(folder: Path, notes: list[str]) -> Generation:
    return Generation(
        folder=folder,
        config=_yaml(folder / "config.yaml", notes),
        scores=_json(folder / "scores.json", notes),
        arrays=read_arrays(folder / "samples.npz", notes),
    )


def read_arrays(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """All arrays of an npz file; empty when there is none, or when it is damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        notes.append(f"{path} is not readable: {error}")
        return {}


def dig(values: object, *keys: str) -> Any:
    """`values[a][b]...`, or None where any of it is missing."""
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def _points(pairs: Any) -> list[tuple[float, float]]:
    return [
        (float(step), float(value))
        for step, value in pairs
        if isinstance(value, int | float) and np.isfinite(value)
    ]


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def _dataset(folder: Path, notes: list[str]) -> Dataset | None:
    try:
        return open_dataset(folder)
    except (ShardError, OSError) as error:
        notes.append(str(error))
        return None


def _metrics(path: Path, notes: list[str]) -> list[Record]:
    """All whole lines; those that a crash cut off are left out."""
    lines = []
    for text in _text(path, notes).splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _json(path: Path, notes: list[str]) -> Record:
    text = _text(path, notes)
    try:
        values = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        notes.append(f"{path} is not readable: {error}")
        return {}
    return values if isinstance(values, dict) else {}


def _yaml(path: Path, notes: list[str]) -> Record:
    try:
        values = yaml.safe_load(_text(path, notes))
    except yaml.YAMLError as error:
        notes.append(f"{path} is not readable: {error}")
        return {}
    return values if isinstance(values, dict) else {}


def _text(path: Path, notes: list[str]) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path} is not readable: {error}")
        return ""
