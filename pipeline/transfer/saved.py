"""A trained model as a folder: the head, the backbone where it learned too, and what its outputs mean.

FOLDER/
  model.safetensors    weights, `head.*`, and `backbone.*` after fine-tuning
  config.json          task, classes, bands, ground, where the backbone came from
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from configs.registry import BandStatistics
from configs.schema import InputSet, Modality, TransferConfig
from pipeline.engine.artifact import RECORD, read_record, read_weights, write_artifact
from pipeline.engine.errors import RunError
from pipeline.transfer.adapt import Adapter
from pipeline.transfer.backbone import Backbone, Intake
from pipeline.transfer.files import told_nodata
from pipeline.transfer.fit import Scale
from pipeline.transfer.heads import layers_for, make_head
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.record import Cell
from pipeline.transfer.task import Task
from pipeline.transfer.weights import backbone_digest

VERSION = 1


class SavedModel(NamedTuple):
    """A model ready to predict: frozen, on its device.

    It was trained on images of `ground_m`, shown to the backbone as `window_m`; `without_bands` were hidden
    from it and are again. `nodata` was no measurement in files of a modality, by its own name.
    """

    backbone: Backbone
    head: nn.Module
    adapters: dict[str, Adapter]
    own_names: dict[str, str]
    layers: list[int]
    label: Modality
    type: str
    values: tuple[int, ...]
    scale: Scale
    ground_m: tuple[float, float]
    window_m: tuple[float, float]
    without_bands: Mapping[str, tuple[str, ...]]
    nodata: Mapping[str, float]


def save_model(
    folder: Path,
    config: TransferConfig,
    cell: Cell,
    digest: str,
    task: Task,
    head: nn.Module,
    backbone: Backbone,
    scale: Scale,
    given: InputSet,
) -> None:
    """Write the folder; it appears under its name only when it is whole. `digest` is the cell's."""
    weights = {f"head.{n}": v for n, v in head.state_dict().items()}
    tuned = cell.protocol == "finetune"
    # Random twins have no other home than this folder.
    if tuned or config.init == "random":
        weights |= {f"backbone.{n}": v for n, v in backbone.state_dict().items()}
    target = task.target
    record: dict[str, Any] = {
        "version": VERSION,
        "cell": digest,
        "backbone": config.backbone,
        "backbone_digest": backbone_digest(config.backbone),
        "merge": config.merge,
        "has_backbone": tuned or config.init == "random",
        "task": cell.task,
        "type": target.type,
        "head": task.config.head,
        "label": target.row.model_dump(mode="json"),
        "values": list(target.values) if target.row.kind == "classes" else [],
        "num_outputs": target.num_outputs,
        "num_doublings": getattr(head, "num_doublings", 0),
        "scale": [scale.mean, scale.std],
        "ground_m": list(task.ground_m),
        "window_m": list(task.window_m),
        "given": given.model_dump(mode="json"),
        "nodata": told_nodata(task.config),
        "inputs": {
            name: {
                "own": task.own_name(name),
                "row": adapter.row.model_dump(mode="json"),
                "intake": adapter.intake._asdict(),
                "band_map": adapter.band_map,
                "statistics": adapter.statistics and adapter.statistics._asdict(),
            }
            for name, adapter in task.adapters.items()
        },
    }
    write_artifact(folder, weights, record)


def load_model(folder: Path, device: torch.device) -> SavedModel:
    """Read what `save_model` wrote. Raises RunError where files are missing, or the backbone is another."""
    if not (folder / RECORD).is_file():
        raise RunError(
            f"no trained model in {folder}; write keep_models=true for `python -m pipeline transfer`"
        )
    record = read_record(folder)
    if "num_outputs" not in record:
        raise RunError(f"{folder} is no model of a task; name a folder below OUT/models")
    if backbone_digest(record["backbone"]) != record["backbone_digest"]:
        raise RunError(
            f"the backbone in {record['backbone']} is not the one that {folder} was trained with; "
            "restore it, or train again"
        )
    adapters, own = {}, {}
    for name, entry in record["inputs"].items():
        told = entry["statistics"]
        statistics = BandStatistics(tuple(told["mean"]), tuple(told["std"])) if told else None
        row, intake = Modality.model_validate(entry["row"]), _intake(entry["intake"])
        adapters[name] = Adapter(row, intake, statistics, name, entry.get("band_map"))
        own[name] = entry["own"]
    offered = {name: adapter.intake for name, adapter in adapters.items()}
    weights = read_weights(folder)
    backbone = open_backbone(
        record["backbone"], offered, device, 0 if record["has_backbone"] else None
    )
    backbone.expect(list(adapters), record.get("merge", "mean"))
    label = Modality.model_validate(record["label"])
    is_map = record["type"] in ("segmentation", "regression")
    head = make_head(
        record["head"], is_map=is_map, width=backbone.width, num_outputs=record["num_outputs"],
        num_doublings=record["num_doublings"],
    )  # fmt: skip
    head.load_state_dict(_below(weights, "head."))
    if record["has_backbone"]:
        backbone.load_state_dict(_below(weights, "backbone."))
    window_m = record["window_m"]
    ground_m = record.get("ground_m", window_m)
    return SavedModel(
        backbone.eval().requires_grad_(False), head.to(device).eval().requires_grad_(False),
        adapters, own, layers_for(record["head"], backbone.depth), label, record["type"],
        tuple(record["values"]), Scale(*record["scale"]),
        (ground_m[0], ground_m[1]), (window_m[0], window_m[1]),
        InputSet.model_validate(record["given"]).without_bands, record.get("nodata", {}),
    )  # fmt: skip


def _below(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}


def _intake(record: dict[str, Any]) -> Intake:
    lists = {key: tuple(record[key]) for key in ("bands", "mean", "std")}
    return Intake(**{**record, **lists})
