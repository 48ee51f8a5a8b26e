"""Generated maps against the truth, beside a trivial guess and beside what the tokens could do.

model      generated from the source modalities
baseline   the same guess everywhere: the training mean, or the most frequent training class
tokens     the truth after a trip through its own tokens: no generation can be expected to do better
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from configs.registry import BandStatistics
from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from pipeline.layers.scores import accuracy, miou


@dataclass
class MapScore:
    """Accumulates one way of guessing one modality over samples."""

    row: Modality
    square: float = 0.0
    absolute: float = 0.0
    num_values: int = 0
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    def add(self, guess: np.ndarray, truth: np.ndarray) -> None:
        """Count one sample: maps [C, H, W] in physical units or classes; nodata does not count."""
        valid = measured_pixels(truth, self.row)
        if self.row.kind == "classes":
            k = self.row.num_classes
            if not self.confusion.size:
                self.confusion = np.zeros((k, k), dtype=np.int64)
            pairs = truth[:, valid].astype(np.int64) * k + guess[:, valid]
            self.confusion += np.bincount(pairs.ravel(), minlength=k * k).reshape(k, k)
            return
        error = guess[:, valid].astype(np.float64) - truth[:, valid]
        self.square += float((error**2).sum())
        self.absolute += float(np.abs(error).sum())
        self.num_values += error.size

    def error(self) -> tuple[float, float]:
        """What was added up: squared errors or wrong pixels, and of how many values."""
        if self.row.kind == "classes":
            total = float(self.confusion.sum())
            return total - float(np.trace(self.confusion)), total
        return self.square, float(self.num_values)

    def values(self) -> dict[str, float]:
        """Accuracy and mIoU for classes, RMSE and MAE in the modality's unit otherwise; {} of no value."""
        if not self.error()[1]:
            return {}
        if self.row.kind == "classes":
            confusion = torch.from_numpy(self.confusion)
            ignore = None if self.row.nodata is None else int(self.row.nodata)
            return {"accuracy": accuracy(confusion), "miou": miou(confusion, ignore)}
        n = self.num_values
        return {"rmse": (self.square / n) ** 0.5, "mae": self.absolute / n}


def constant_guess(
    row: Modality, statistics: BandStatistics | None, class_counts: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """The trivial baseline as a map [C, 1, 1] that broadcasts, and its name."""
    if row.kind == "classes":
        assert class_counts is not None
        counts = class_counts.copy()
        if row.nodata is not None:
            counts[int(row.nodata)] = 0
        best = int(counts.argmax())
        name = next(c.name for c in row.classes if c.value == best)
        return np.full((1, 1, 1), best, dtype=np.uint8), f"most frequent class: {name}"
    assert statistics is not None
    return np.asarray(statistics.mean)[:, None, None], "training mean"


def table(scores: dict[str, dict[str, MapScore]]) -> dict[str, dict[str, dict[str, Any]]]:
    """{modality: {metric: {model, baseline, tokens}}} from the accumulated scores.

    A modality without any truth has no entry.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, ways in scores.items():
        for way, score in ways.items():
            for metric, value in score.values().items():
                result.setdefault(name, {}).setdefault(metric, {})[way] = value
    return result
