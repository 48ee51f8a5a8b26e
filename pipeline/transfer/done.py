"""Whether scores are of what is there now. Free of torch: a command that is done answers at once."""

import json
from pathlib import Path

from configs import ConfigError
from configs.schema import TaskConfig, TransferConfig
from pipeline.engine.errors import RunError
from pipeline.transfer.record import read_results
from pipeline.transfer.samples import source_digest
from pipeline.transfer.weights import backbone_digest
from shards.errors import ShardError

SCORES = "scores.json"


def is_current(config: TransferConfig) -> bool:
    """Whether the scores in OUT are of the weights and the data that are there now, and models kept as asked.

    Weights or data that are gone were not made anew: the scores stand.
    """
    try:
        record = json.loads((config.out / SCORES).read_text())
        made_with = record["backbone_digest"]
        made_of = {name: task["source_digest"] for name, task in record["tasks"].items()}
        cells = set(record["cells"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if _weights(config.backbone) not in (made_with, None):
        return False
    if any(_data(task) not in (made_of.get(name), None) for name, task in config.tasks.items()):
        return False
    return not config.keep_models or all(
        has_model(config.out, line["name"], line["cell"])
        for line in read_results(config.out)
        if line["cell"] in cells and line["protocol"] != "knn"
    )


def model_folder(out: Path, name: str) -> Path:
    """Where the trained model of a cell lies, if it was kept."""
    return out / "models" / name


def has_model(out: Path, name: str, digest: str) -> bool:
    """Whether the model there is of this very cell: other settings or weights give one of the same name."""
    folder = model_folder(out, name)
    try:
        made_by = json.loads((folder / "config.json").read_text()).get("cell")
        return made_by == digest and (folder / "model.safetensors").is_file()
    except (OSError, ValueError, AttributeError):
        return False


def _weights(backbone: str) -> str | None:
    try:
        return backbone_digest(backbone)
    except RunError:
        return None


def _data(task: TaskConfig) -> str | None:
    try:
        return source_digest(task)
    except (ConfigError, ShardError):
        return None
