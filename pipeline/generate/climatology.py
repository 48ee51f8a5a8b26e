"""What a place and a season usually look like: the guess of somebody who has a map and a calendar.

For a sample, the training samples nearest in place and time of the year say what a window has: of images
the mean of their means per band, of class maps the class that is most frequent among their pixels. Their
windows are read when they are first asked for: a data set may be as large as it likes.
"""

import datetime
from typing import Any

import numpy as np

from configs.schema import DataConfig
from pipeline.data.selection import readable, select
from pipeline.data.transforms import measured_pixels
from pipeline.engine.evaluation import spread
from pipeline.stage2.samples import SampleReader
from shards import SampleSet

NUM_NEAREST = 16
NUM_PLACES = 20_000
"""Training samples that a neighbour is looked for among, evenly spread: reading places takes seconds."""

PLACE, SEASON, BOTH = slice(0, 3), slice(3, 5), slice(0, 5)
"""Parts of a point: what a guess goes by."""


class Whereabouts:
    """Places and days of samples as points, each read once however many modalities ask."""

    def __init__(self, dataset: SampleSet, data: DataConfig):
        self._dataset, self._data = dataset, data
        self._parts = [name for name in ("coordinates", "date") if name in dataset.modalities]
        self._known: dict[int, np.ndarray] = {}

    def of(self, index: int) -> np.ndarray:
        """On the unit sphere, and on a circle of the year half as wide: [5], NaN where one is missing."""
        if index not in self._known:
            parts = self._dataset.read(index, self._parts)
            self._known[index] = _point(parts.get("coordinates"), parts.get("date"))
        return self._known[index]

    def training(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Training samples that have a modality: their numbers [N] and points [N, 5]."""
        indices = select(self._dataset, self._data, self._data.split, [name])
        chosen = spread(indices, NUM_PLACES).tolist()
        found = list(readable(chosen, lambda i: (i, self.of(i))))
        points = [point for _, point in found]
        return np.array([i for i, _ in found], int), np.array(points).reshape(-1, BOTH.stop)


def _point(lon_lat: Any, date: Any) -> np.ndarray:
    found = np.full(BOTH.stop, np.nan)
    if isinstance(lon_lat, np.ndarray):
        lon, lat = np.radians(np.asarray(lon_lat, dtype=np.float64).ravel()[:2])
        found[PLACE] = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    if isinstance(date, str):
        day = datetime.date.fromisoformat(date[:10]).timetuple().tm_yday
        turn = 2 * np.pi * day / 365.25
        found[SEASON] = 0.5 * np.cos(turn), 0.5 * np.sin(turn)
    return found


class Climatology:
    """Of one modality. Raises nothing: `guess` is None where nothing is known of a sample's place."""

    def __init__(self, reader: SampleReader, whereabouts: Whereabouts, name: str, view: int):
        self._reader, self._name, self._view = reader, name, view
        self._whereabouts, self._row = whereabouts, reader.dataset.modalities[name]
        self._indices, self._points = whereabouts.training(name)
        self._summaries: dict[int, np.ndarray | None] = {}

    def guess(self, index: int, by: slice = BOTH) -> np.ndarray | None:
        """[C, 1, 1], in the unit of the modality, or a class; None where what it goes by is missing."""
        where, points = self._whereabouts.of(index)[by], self._points[:, by]
        known = np.isfinite(points).all(1)
        if not np.isfinite(where).all() or not known.any():
            return None
        apart = np.where(known, ((points - where) ** 2).sum(1), np.inf)
        nearest = self._indices[np.argsort(apart, kind="stable")[: known.sum()]]
        means: list[np.ndarray] = []
        for i in map(int, nearest):
            if (found := self._summary(i)) is not None:
                means.append(found)
            if len(means) == NUM_NEAREST:
                break
        if not means:
            return None
        mean = np.mean(means, 0)
        if self._row.kind == "classes":
            return np.full((1, 1, 1), mean.argmax(), dtype=np.uint8)
        return mean[:, None, None]

    def _summary(self, index: int) -> np.ndarray | None:
        """Mean per band, or the share of each class; None of a window that cannot be read or is empty."""
        if index not in self._summaries:
            self._summaries[index] = next(readable([index], self._summarise), None)
        return self._summaries[index]

    def _summarise(self, index: int) -> np.ndarray | None:
        part = self._reader.dataset.read(index, [self._name])[self._name]
        window = self._reader.window(self._name, np.asarray(part), self._view)
        pixels = window[:, measured_pixels(window, self._row)]
        if not pixels.size:
            return None
        if self._row.kind == "classes":
            counts = np.bincount(pixels.ravel(), minlength=self._row.num_classes)
            return counts / counts.sum()
        return pixels.mean(axis=1, dtype=np.float64)
