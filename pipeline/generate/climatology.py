"""What a place and a season usually look like: the guess of somebody who has a map and a calendar.

For a sample, the training samples nearest in place and time of the year say what a window has: of images
the mean of their means per band, of class maps the class that is most frequent among their pixels.
"""

import datetime
from typing import Any

import numpy as np

from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from shards import SampleSet

NUM_NEAREST = 16


class Whereabouts:
    """Places and days of samples as points, each read once however many modalities ask."""

    def __init__(self, dataset: SampleSet):
        self._dataset = dataset
        self._known: dict[int, np.ndarray | None] = {}

    def of(self, index: int) -> np.ndarray | None:
        """On the unit sphere, and on a circle of the year half as wide; None where one is missing."""
        if index not in self._known:
            parts = self._dataset.read(index, ["coordinates", "date"])
            self._known[index] = _point(parts.get("coordinates"), parts.get("date"))
        return self._known[index]


def _point(lon_lat: Any, date: Any) -> np.ndarray | None:
    if not isinstance(lon_lat, np.ndarray) or not isinstance(date, str):
        return None
    lon, lat = np.radians(np.asarray(lon_lat, dtype=np.float64).ravel()[:2])
    day = datetime.date.fromisoformat(date[:10]).timetuple().tm_yday
    turn = 2 * np.pi * day / 365.25
    place = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    return np.array([*place, 0.5 * np.cos(turn), 0.5 * np.sin(turn)])


class Climatology:
    """Of one modality, from the training samples that it was shown.

    Raises nothing: `guess` is None where nothing is known of a sample's place.
    """

    def __init__(self, whereabouts: Whereabouts, row: Modality):
        self._whereabouts, self._row = whereabouts, row
        self._wheres: list[np.ndarray] = []
        self._means: list[np.ndarray] = []

    def add(self, index: int, window: np.ndarray) -> None:
        """A training sample's window [C, H, W]."""
        where, valid = self._whereabouts.of(index), measured_pixels(window, self._row)
        if where is not None and valid.any():
            self._wheres.append(where)
            self._means.append(self._summary(window[:, valid]))

    def guess(self, index: int) -> np.ndarray | None:
        """[C, 1, 1], in the unit of the modality, or a class; None where place or day is missing."""
        where = self._whereabouts.of(index)
        if where is None or not self._wheres:
            return None
        apart = ((np.array(self._wheres) - where) ** 2).sum(1)
        near = np.argsort(apart, kind="stable")[:NUM_NEAREST]
        mean = np.mean([self._means[i] for i in near], 0)
        if self._row.kind == "classes":
            return np.full((1, 1, 1), mean.argmax(), dtype=np.uint8)
        return mean[:, None, None]

    def _summary(self, pixels: np.ndarray) -> np.ndarray:
        """[C, N] -> mean per band, or the share of each class."""
        if self._row.kind == "classes":
            counts = np.bincount(pixels.ravel(), minlength=self._row.num_classes)
            return counts / counts.sum()
        return pixels.mean(axis=1, dtype=np.float64)
