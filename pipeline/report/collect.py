"""What a folder holds, read from files alone, in whatever state a run has left them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs import modality_registry
from configs.registry import in_registry_order
from configs.schema import Modality
from pipeline.report.comparison import Comparison, read_comparison
from pipeline.report.files import Record, dig, read_arrays, read_json, read_yaml
from pipeline.report.models import ModelComparison, read_models
from pipeline.report.runs import TrainingRun, read_run
from pipeline.report.transfer import Transferred, read_transfer, read_transfers
from shards import Dataset, ShardError, open_dataset


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
    """Everything in a folder.

    `single` names the kind of a lone run's folder, or of a comparison; "" for an experiment.
    """

    folder: Path
    single: str = ""
    dataset: Dataset | None = None
    stage1: dict[str, TrainingRun] = field(default_factory=dict)
    stage2: TrainingRun | None = None
    multimae: TrainingRun | None = None
    generations: list[Generation] = field(default_factory=list)
    shards_config: Record = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    title: str = ""
    comparison: Comparison | None = None
    models: ModelComparison | None = None
    transfers: list[Transferred] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        source = self.dataset.manifest.get("source") if self.dataset else None
        compared = self.comparison or self.models
        if compared and self.dataset is None and not self.shards_config:
            return bool(compared.plan.get("synthetic"))
        return dig(source or self.shards_config.get("source"), "type") == "synthetic"

    @property
    def runs(self) -> list[TrainingRun]:
        compared = [c.run for c in self.comparison.runs] if self.comparison else []
        compared += [m.run for m in self.models.runs] if self.models else []
        models = [run for run in (self.stage2, self.multimae) if run is not None]
        return [*self.stage1.values(), *models, *compared]

    def modality(self, name: str) -> Modality | None:
        """The row the shards were made with, else today's registry row; None for a foreign name."""
        rows = self.dataset.modalities if self.dataset else {}
        row, today = rows.get(name), modality_registry().get(name)
        # How a map is shown is no property of the data: pictures follow today's registry.
        return row.model_copy(update={"display": today.display}) if row and today else row or today


def collect(folder: Path) -> Found:
    """Read an experiment's folder, or that of a single run."""
    found = Found(folder)
    config = read_yaml(folder / "config.yaml", found.notes)
    plan = read_yaml(folder / "experiment.yaml", found.notes)
    kind = config.get("kind")
    if (folder / "manifest.json").is_file():
        found.single = "shards"
        found.dataset = _dataset(folder, found.notes)
    elif kind in ("stage1", "stage2", "fusion", "multimae", "generate", "transfer"):
        found.single = kind
        _add_single(found, config)
    elif plan.get("kind") == "comparison":
        _add_comparison(found, plan)
    elif plan.get("kind") == "model_comparison":
        _add_experiment(found)
        found.models, found.single = read_models(folder, plan, found.notes), "models"
        found.transfers = [
            t for m in found.models.runs for t in read_transfers(m.run.folder, m.arm, found.notes)
        ]
    else:
        _add_experiment(found)
    return found


def _add_single(found: Found, config: Record) -> None:
    tasks = (config.get("tasks") or {}).values() if found.single == "transfer" else ()
    of_tasks = (dig(task, "data", "shards") for task in tasks)
    shards = dig(config, "data", "shards") or next((s for s in of_tasks if s), None)
    if shards and (Path(shards) / "manifest.json").is_file():
        found.dataset = _dataset(Path(shards), found.notes)
    if found.single == "transfer":
        run = str(config.get("backbone", ""))
        lone = read_transfer(found.folder, Path(run).name or run, found.notes)
        found.transfers = [lone] if lone else []
    elif found.single == "generate":
        found.generations = [read_generation(found.folder, found.notes)]
    elif found.single in ("stage2", "fusion"):
        found.stage2 = read_run(found.folder, found.notes)
    elif found.single == "multimae":
        found.multimae = read_run(found.folder, found.notes)
    else:
        found.stage1 = {str(config.get("modality")): read_run(found.folder, found.notes)}


def _add_comparison(found: Found, plan: Record) -> None:
    found.comparison = read_comparison(found.folder, plan, found.notes)
    found.single, found.title = "comparison", str(plan.get("title", ""))
    found.shards_config = read_yaml(found.folder / ".launch" / "shards.yaml", found.notes)
    shards = Path(plan.get("data") or found.folder / "shards")
    if (shards / "manifest.json").is_file():
        found.dataset = _dataset(shards, found.notes)


def _add_experiment(found: Found) -> None:
    folder, notes = found.folder, found.notes
    found.title = str(read_yaml(folder / "experiment.yaml", notes).get("title", ""))
    if (folder / "shards" / "manifest.json").is_file():
        found.dataset = _dataset(folder / "shards", notes)
    found.shards_config = read_yaml(folder / ".launch" / "shards.yaml", notes)
    stage1 = {p.name: read_run(p, notes) for p in _folders(folder / "stage1")}
    known = [name for name in stage1 if name in modality_registry()]
    notes += [f"{folder / 'stage1' / n}: no such modality" for n in stage1.keys() - set(known)]
    found.stage1 = {name: stage1[name] for name in in_registry_order(known)}
    if (folder / "stage2").is_dir():
        found.stage2 = read_run(folder / "stage2", notes)
    if (folder / "multimae").is_dir():
        found.multimae = read_run(folder / "multimae", notes)
    tasks = [read_generation(p, notes) for p in _folders(folder / "generate")]
    found.generations = sorted(tasks, key=lambda task: _place(task.source))


def _place(names: list[str]) -> list[int]:
    """Sorts tasks as the registry sorts their sources; names it does not know go last."""
    rows = modality_registry()
    return [rows[n].order if n in rows else sys.maxsize for n in names] or [sys.maxsize]


def read_generation(folder: Path, notes: list[str]) -> Generation:
    """A generation task as its folder tells it, in whatever state it is."""
    return Generation(
        folder=folder,
        config=read_yaml(folder / "config.yaml", notes),
        scores=read_json(folder / "scores.json", notes),
        arrays=read_arrays(folder / "samples.npz", notes),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def _dataset(folder: Path, notes: list[str]) -> Dataset | None:
    try:
        return open_dataset(folder)
    except (ShardError, OSError) as error:
        notes.append(str(error))
        return None
