"""What a sample can be classified as: the most frequent class of its window, or its one-hot vector."""

import numpy as np

from configs import ConfigError
from configs.schema import Modality
from pipeline.stage2.samples import SampleReader


def label_row(reader: SampleReader, name: str) -> Modality:
    """The row of a label. Raises ConfigError for what holds no classes."""
    rows = reader.dataset.modalities
    if name not in rows:
        raise ConfigError(
            f"probes.labels names {name}; {reader.dataset.path} has {', '.join(rows)}"
        )
    row = rows[name]
    if row.kind not in ("classes", "vector"):
        raise ConfigError(
            f"probes.labels names {name}, a modality of kind {row.kind}; only class maps and one-hot "
            "vectors are labels"
        )
    return row


def label_of(reader: SampleReader, row: Modality, index: int) -> int | None:
    """The class of a sample, shown as its tokens show it; None where it has none, or several."""
    part = reader.dataset.read(index, [row.name]).get(row.name)
    if not isinstance(part, np.ndarray):
        return None
    if row.kind == "vector":
        hot = np.flatnonzero(part > 0.5)
        return int(hot[0]) if len(hot) == 1 else None
    window = reader.window(row.name, part, reader.layout.views.centre)
    counts = np.bincount(window.ravel(), minlength=row.num_classes)
    if row.nodata is not None:
        counts[int(row.nodata)] = 0
    return int(counts.argmax()) if counts.any() else None


def class_name(row: Modality, value: int) -> str:
    """A class in words."""
    if row.kind == "vector":
        return row.bands[value]
    return next((c.name for c in row.classes if c.value == value), str(value))
