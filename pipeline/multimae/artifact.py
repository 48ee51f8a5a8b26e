"""A trained MultiMAE as others use it: weights, groups, and the statistics of its images.

    FOLDER/
      model.safetensors    weights of the whole model
      config.json          shape, groups, modality table, statistics

Weights and statistics travel together: a model under other statistics is silently wrong.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from configs.registry import BandStatistics
from configs.schema import Modality, MultiMAEConfig
from pipeline.data.transforms import Normaliser
from pipeline.engine.artifact import read_record, read_weights, write_artifact
from pipeline.engine.errors import RunError
from pipeline.engine.identity import find as find
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
    record = {
        "version": VERSION,
        "multimae": about.config.model_dump(mode="json"),
        "table": about.table.to_dict(),
        "modalities": {n: row.model_dump(mode="json") for n, row in about.rows.items()},
        "statistics": {n: v.statistics._asdict() for n, v in about.normalisers.items()},
    }
    write_artifact(folder, weights, record)


def describe(folder: Path) -> Described:
    """config.json of an artifact. Raises RunError when there is none."""
    record = read_record(folder)
    if "table" not in record:
        raise RunError(f"{folder} has no MultiMAE; name the folder of a multimae run")
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
    model.load_state_dict(read_weights(folder), strict=True)
    return model.to(device).eval(), about
