"""What a task asks for: labels as arrays, their classes, and the groups that subsets are drawn from.

Shapes: K classes, H W pixels. Labels are int64 () for classification, float32 [K] for multilabel, int16
[H, W] for segmentation with IGNORED where nothing counts, float32 [1, H, W] for regression with NaN there.
Those of all samples are held in memory: int16 has room for the 256 classes of a map and IGNORED.
"""

import numpy as np

from configs import ConfigError
from configs.schema import Modality, TaskConfig

IGNORED = -1
_STRATA = 5


class Target:
    """The label of a task, as its row and the task's type say. Raises ConfigError where they do not fit."""

    def __init__(self, row: Modality, config: TaskConfig):
        self.row, self.type, self._min_share = row, config.type, config.min_share
        fitting = {
            "classification": ("vector", "classes"),
            "multilabel": ("vector", "classes"),
            "segmentation": ("classes",),
            "regression": ("image",),
        }[config.type]
        if row.kind not in fitting:
            raise ConfigError(
                f"label: {row.name} is a {row.kind} modality; a {config.type} task needs one of "
                f"{' or '.join(fitting)}"
            )
        if row.is_map and row.num_bands != 1:
            raise ConfigError(f"label: {row.name} has {row.num_bands} bands; a target has one")
        self.names: tuple[str, ...] = ()
        if row.kind == "vector":
            self.names = row.bands
        elif row.kind == "classes":
            kept = [c for c in row.classes if c.value != row.nodata]
            self.names = tuple(c.name for c in kept)
            self.values = tuple(c.value for c in kept)
            self._place = np.full(256, IGNORED, dtype=np.int16)
            self._place[list(self.values)] = range(len(kept))

    @property
    def is_map(self) -> bool:
        return self.type in ("segmentation", "regression")

    @property
    def num_outputs(self) -> int:
        return len(self.names) or 1

    def of(self, part: object) -> np.ndarray | None:
        """The label of a sample; None for one without."""
        if not isinstance(part, np.ndarray):
            return None
        if self.row.kind == "vector":
            return self._of_vector(part > 0.5)
        if self.row.kind == "image":
            x = part.astype(np.float32)
            if self.row.nodata is not None and np.isfinite(self.row.nodata):
                x[x == self.row.nodata] = np.nan
            return x if np.isfinite(x).any() else None
        places = self._place[part[0]]
        if self.type == "segmentation":
            return places if (places != IGNORED).any() else None
        counts = np.bincount(places[places != IGNORED], minlength=len(self.names))
        if not counts.sum():
            return None
        if self.type == "classification":
            return np.asarray(counts.argmax(), dtype=np.int64)
        return (counts >= self._min_share * counts.sum()).astype(np.float32)

    def strata(self, labels: list[np.ndarray]) -> np.ndarray:
        """The group of each label, int64 [N]: its class, its most frequent one, or a fifth of the range."""
        if self.type == "classification":
            return np.array([int(label) for label in labels], dtype=np.int64)
        if self.type == "segmentation":
            counted = (np.bincount(x[x != IGNORED], minlength=1).argmax() for x in labels)
            return np.fromiter(counted, np.int64, len(labels))
        if self.type == "multilabel":
            # The rarest of a sample's classes: frequent ones come with the others anyway.
            hot = np.stack(labels) > 0.5
            rarity = np.where(hot, hot.sum(0), hot.shape[0] + 1)
            return np.where(hot.any(1), rarity.argmin(1), len(self.names))
        means = np.array([np.nanmean(x) for x in labels])
        edges = np.quantile(means, np.arange(1, _STRATA) / _STRATA)
        return np.searchsorted(edges, means, side="right")

    def _of_vector(self, hot: np.ndarray) -> np.ndarray | None:
        if self.type == "multilabel":
            return hot.astype(np.float32)
        found = np.flatnonzero(hot)
        return np.asarray(found[0], dtype=np.int64) if len(found) == 1 else None
