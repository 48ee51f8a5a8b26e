"""Mean and deviation per band, and pixels per class, gathered while the shards are written.

Only measurements count: pixels equal to the modality's nodata value and non-finite ones are left
out. Integer types are summed exactly (Python integers), so their result does not depend on any
order. Floats are kept as count, mean and squared deviation in float64 and merged pairwise (Chan,
Golub and LeVeque 1983) in slot order within a shard and in manifest order between shards, so the
result does not depend on who wrote which shard.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from configs.registry import BandStatistics
from configs.schema.modality import Modality
from shards.sample import Part

_EXACT = 1 << 21


def valid_pixels(array: np.ndarray, row: Modality) -> np.ndarray:
    """Where `array` carries a measurement: bool, same shape."""
    valid = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    if row.nodata is not None and not math.isnan(row.nodata):
        valid &= array != row.nodata
    return valid


def measured_values(band: np.ndarray, row: Modality) -> np.ndarray:
    """The measurements of one band as float64, flat; a copy only of what must be left out."""
    values = band.reshape(-1)
    if row.nodata is not None and not math.isnan(row.nodata):
        invalid = values == row.nodata
        if invalid.any():
            values = values[~invalid]
    values = values.astype(np.float64)
    # One sum tells whether anything in it is not finite, much faster than asking each value.
    if band.dtype.kind == "f" and not math.isfinite(values.sum()):
        values = values[np.isfinite(values)]
    return values


class IntegerSums:
    """Exact count, sum and sum of squares per band."""

    def __init__(self, num_bands: int) -> None:
        self.count = [0] * num_bands
        self.total = [0] * num_bands
        self.squares = [0] * num_bands

    def add(self, array: np.ndarray, row: Modality) -> None:
        # Integers below 2^53 are exact in float64, and so is every sum that stays below: at most
        # 2^21 squares of 16 bits at a time, in any order.
        for c, band in enumerate(array):
            values = measured_values(band, row)
            self.count[c] += values.size
            for start in range(0, values.size, _EXACT):
                chunk = values[start : start + _EXACT]
                self.total[c] += int(chunk.sum())
                # Not np.dot: a BLAS would bring its own threads, to cores that are all at work.
                self.squares[c] += int(np.square(chunk, out=chunk).sum())

    def merge(self, other: dict[str, list[int]]) -> None:
        for c in range(len(self.count)):
            self.count[c] += other["count"][c]
            self.total[c] += other["total"][c]
            self.squares[c] += other["squares"][c]

    def result(self) -> BandStatistics:
        mean = [t / n for t, n in zip(self.total, self.count, strict=True)]
        # n * squares - total^2 is exact in integers: no cancellation however large the mean is.
        std = [
            math.sqrt((n * q - t * t) / (n * n))
            for n, t, q in zip(self.count, self.total, self.squares, strict=True)
        ]
        return BandStatistics(tuple(mean), tuple(std))


class FloatSums:
    """Count, mean and sum of squared deviations per band, float64."""

    def __init__(self, num_bands: int) -> None:
        self.count = [0] * num_bands
        self.mean = [0.0] * num_bands
        self.deviation = [0.0] * num_bands

    def add(self, array: np.ndarray, row: Modality) -> None:
        for c, band in enumerate(array):
            values = measured_values(band, row)
            if values.size:
                mean = float(values.mean())
                values -= mean
                self._merge_band(c, values.size, mean, float(np.square(values, out=values).sum()))

    def merge(self, other: dict[str, list[Any]]) -> None:
        for c in range(len(self.count)):
            if other["count"][c]:
                self._merge_band(c, other["count"][c], other["mean"][c], other["deviation"][c])

    def _merge_band(self, c: int, count: int, mean: float, deviation: float) -> None:
        total = self.count[c] + count
        step = mean - self.mean[c]
        self.deviation[c] += deviation + step * step * self.count[c] * count / total
        self.mean[c] += step * count / total
        self.count[c] = total

    def result(self) -> BandStatistics:
        std = [math.sqrt(d / n) for d, n in zip(self.deviation, self.count, strict=True)]
        return BandStatistics(tuple(self.mean), tuple(std))


class ClassCounts:
    """Pixels per class value."""

    def __init__(self, num_classes: int) -> None:
        self.count = [0] * num_classes

    def add(self, array: np.ndarray, row: Modality) -> None:
        found = np.bincount(array.ravel(), minlength=len(self.count))
        self.merge({"count": found.tolist()})

    def merge(self, other: dict[str, list[int]]) -> None:
        self.count = [a + b for a, b in zip(self.count, other["count"], strict=True)]


class Statistics:
    """Sums of all maps of a shard, or merged ones of a data set."""

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        self._rows = {n: row for n, row in modalities.items() if row.is_map}
        self._sums = {name: _sums_for(row) for name, row in self._rows.items()}

    def add(self, parts: Mapping[str, Part]) -> None:
        """Count one sample's maps."""
        for name, sums in self._sums.items():
            part = parts.get(name)
            if isinstance(part, np.ndarray):
                sums.add(part, self._rows[name])

    def dump(self) -> dict[str, dict[str, list[Any]]]:
        """The sums as JSON values; floats survive exactly."""
        return {name: dict(vars(sums)) for name, sums in self._sums.items()}

    def merge(self, dumps: Iterable[Mapping[str, Any]]) -> None:
        """Add sums that `dump` gave, in the order given."""
        for dumped in dumps:
            for name, sums in self._sums.items():
                sums.merge(dumped[name])

    def bands(self) -> dict[str, dict[str, list[Any]]]:
        """{modality: {mean, std, count}} of all images; without those that have an empty band."""
        found = {}
        for name, sums in self._sums.items():
            if not isinstance(sums, ClassCounts) and all(sums.count):
                mean, std = sums.result()
                found[name] = {"mean": list(mean), "std": list(std), "count": list(sums.count)}
        return found

    def classes(self) -> dict[str, list[int]]:
        """{modality: pixels per class value}, the value being the position."""
        return {n: s.count for n, s in self._sums.items() if isinstance(s, ClassCounts)}


def _sums_for(row: Modality) -> IntegerSums | FloatSums | ClassCounts:
    if row.kind == "classes":
        return ClassCounts(row.num_classes)
    is_float = np.dtype(row.dtype).kind == "f"
    return FloatSums(row.num_bands) if is_float else IntegerSums(row.num_bands)
