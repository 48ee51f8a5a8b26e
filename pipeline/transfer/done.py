"""Whether scores are of what is there now. Free of torch: a command that is done answers at once."""

import json

from configs import ConfigError
from configs.schema import TaskConfig, TransferConfig
from pipeline.engine.errors import RunError
from pipeline.transfer.samples import source_digest
from pipeline.transfer.weights import backbone_digest
from shards.errors import ShardError

SCORES = "scores.json"


def is_current(config: TransferConfig) -> bool:
    """Whether the scores in OUT are of the weights and the data that are there now.

    Weights or data that are gone were not made anew: the scores stand.
    """
    try:
        record = json.loads((config.out / SCORES).read_text())
        made_with = record["backbone_digest"]
        made_of = {name: task["source_digest"] for name, task in record["tasks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if _weights(config.backbone) not in (made_with, None):
        return False
    return all(_data(task) in (made_of.get(name), None) for name, task in config.tasks.items())


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
