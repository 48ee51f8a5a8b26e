"""A data set's exact statistics per split, from what was counted while its shards were written.

No pixel is read again. Integers are summed exactly and floats merged in manifest order, so the values
do not depend on how many ranks built the shards.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shards.dataset import Dataset
from shards.errors import ShardError
from shards.files import write_atomic
from shards.index import index_path, read_index
from shards.record import require_record
from shards.stats import Statistics


def measured(dataset: Dataset, split: str | None = "train") -> Statistics:
    """Sums over a split, None for all. Raises ShardError for other splits or missing records."""
    if split is not None and split not in dataset.split_names():
        raise ShardError(
            f"{dataset.path} has no split {split!r}; it has {', '.join(dataset.split_names())}"
        )
    statistics = Statistics(dataset.own_modalities)
    for own, name in dataset.shards:
        if split in (None, own):
            tar = dataset.path / own / f"{name}.tar"
            statistics.merge([require_record(tar, read_index(index_path(tar))).statistics])
    return statistics


def write_set(path: Path, dataset: Dataset, split: str | None, statistics: Statistics) -> None:
    """Write a statistics set that configurations can name. Raises ShardError."""
    bands: Mapping[str, Any] = statistics.bands()
    header = (
        f"# Mean and deviation per band of {dataset.path.name}, split {split or 'all'}, nodata left out.\n"
        f"# Data set {dataset.fingerprint}; written by `python -m shards stats`.\n"
    )
    values = {name: {"mean": found["mean"], "std": found["std"]} for name, found in bands.items()}
    text = yaml.safe_dump({"modalities": values}, sort_keys=False, default_flow_style=None)
    write_atomic(path, (header + text).encode())


def rows_of(statistics: Statistics) -> list[dict[str, Any]]:
    """One row per band and per class, for a table."""
    rows = [
        {"modality": name, "band": c, "count": count, "mean": mean, "std": std}
        for name, found in statistics.bands().items()
        for c, (count, mean, std) in enumerate(
            zip(found["count"], found["mean"], found["std"], strict=True)
        )
    ]
    for name, counts in statistics.classes().items():
        total = max(sum(counts), 1)
        rows += [
            {"modality": name, "band": f"class {c}", "count": n, "mean": n / total, "std": ""}
            for c, n in enumerate(counts)
            if n
        ]
    return rows
