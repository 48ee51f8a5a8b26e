"""A trained MultiMAE as others use it: weights, groups, and the statistics of its images.

    FOLDER/
      model.safetensors    weights of the whole model
      config.json          shape, groups, modality table, statistics

Weights and statistics travel together: a model under other statistics is silently wrong.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.registry import BandStatistics
from configs.schema import Modality, MultiMAEConfig
from pipeline.data.transforms import Normaliser
from pipeline.engine.errors import RunError
from pipeline.engine.lifecycle import write_atomic
from pipeline.multimae.groups import GroupTable
from pipeline.multimae.model import MultiMAE

VERSION = 1


class Described(NamedTuple):
    """What an artifact is, beside its weights; `rows` are those of all its modalities."""

    table: GroupTable
    config: MultiMAEConfig
    rows: dict[str, Modality]
    normalisers: dict[str, Normaliser]


def save(weights: Mapping[str, Tensor], about: Described, folder: Path) -> None:
    """Write the artifact; the folder appears under its name only when it is whole."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    kept = {k: v.detach().float().cpu().contiguous() for k, v in weights.items()}
    save_file(kept, temporary / "model.safetensors")
    record = {
        "version": VERSION,
        "multimae": about.config.model_dump(mode="json"),
        "table": about.table.to_dict(),
        "modalities": {n: row.model_dump(mode="json") for n, row in about.rows.items()},
        "statistics": {n: v.statistics._asdict() for n, v in about.normalisers.items()},
    }
    write_atomic(temporary / "config.json", json.dumps(record, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def describe(folder: Path) -> Described:
    """config.json of an artifact. Raises RunError when there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(
            f"no model in {folder}; finish its multimae run first: `python -m pipeline train`"
        )
    record = json.loads(path.read_text())
    if "table" not in record:
        raise RunError(f"{path} is not of a MultiMAE; name the folder of a multimae run")
    rows = {n: Modality.model_validate(row) for n, row in record["modalities"].items()}
    normalisers = {
        n: Normaliser(rows[n], BandStatistics(tuple(s["mean"]), tuple(s["std"])))
        for n, s in record["statistics"].items()
    }
    config = MultiMAEConfig.model_validate(record["multimae"])
    return Described(GroupTable.from_dict(record["table"]), config, rows, normalisers)


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[MultiMAE, Described]:
    """The whole model, frozen, and what it is. Raises RunError when the run has left none."""
    about = describe(folder)
    statistics = {n: v.statistics for n, v in about.normalisers.items()}
    model = MultiMAE(about.table, about.config, statistics)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.to(device).eval(), about


def find(path: Path) -> Path:
    """The artifact that a path means: itself, or that of a run."""
    return path if (path / "config.json").is_file() else path / "artifact"
