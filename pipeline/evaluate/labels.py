"""What a sample can be classified as: the most frequent class of its window, or its one-hot vector."""

from collections.abc import Callable

import numpy as np

from configs import ConfigError
from configs.schema import Modality
from shards import SampleSet


def label_row(dataset: SampleSet, name: str) -> Modality:
    """The row of a label. Raises ConfigError for what holds no classes."""
    rows = dataset.modalities
    if name not in rows:
        raise ConfigError(f"probes.labels names {name}; {dataset.path} has {', '.join(rows)}")
    row = rows[name]
    if row.kind not in ("classes", "vector"):
        raise ConfigError(
            f"probes.labels names {name}, a modality of kind {row.kind}; only class maps and one-hot "
            "vectors are labels"
        )
    return row


def label_of(
    dataset: SampleSet, row: Modality, index: int, window: Callable[[np.ndarray], np.ndarray]
) -> int | None:
    """The class of a sample; None where it has none, or several. `window` cuts a map as a model sees it."""
    part = dataset.read(index, [row.name]).get(row.name)
    if not isinstance(part, np.ndarray):
        return None
    if row.kind == "vector":
        hot = np.flatnonzero(part > 0.5)
        return int(hot[0]) if len(hot) == 1 else None
    counts = np.bincount(window(part).ravel(), minlength=row.num_classes)
    if row.nodata is not None:
        counts[int(row.nodata)] = 0
    return int(counts.argmax()) if counts.any() else None


def class_name(row: Modality, value: int) -> str:
    """A class in words."""
    if row.kind == "vector":
        return row.bands[value]
    return next((c.name for c in row.classes if c.value == value), str(value))
