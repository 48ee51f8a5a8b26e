"""Quantiles of images by date and by source, kept as sketches that merge.

Of each image the 2 % and 98 % quantile per band of its valid pixels, over at most 4,096 of them. They
are grouped by month (January 2022 in two, at the day Sentinel-2's offset came) and by source. A group
keeps those of its samples whose keys have the smallest digests (a bottom-k sketch: Cohen and Kaplan
2007): a uniform random choice that is the same for every order of merging, and needs no more memory
for nine million samples than for a thousand.
"""

import datetime
import math
from dataclasses import dataclass, field

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.stats import valid_pixels

OFFSET_DAY = datetime.date(2022, 1, 25)
"""Processing baseline 04.00 adds 1,000 to Sentinel-2 values from this day on."""
LOW, HIGH = 0.02, 0.98

_MAX_PX = 4096
_MIN_PX = 16
_SKETCH_SIZE = 128
_MAX_SOURCES = 64


def quantiles(array: np.ndarray, row: Modality) -> np.ndarray:
    """Low and high quantile per band of an image (C, H, W): float32 [C, 2], NaN without pixels."""
    num_bands, height, width = array.shape
    step = math.ceil(math.sqrt(height * width / _MAX_PX))
    pixels = array[:, ::step, ::step].reshape(num_bands, -1)
    valid = valid_pixels(pixels, row)
    if valid.all() and pixels.shape[1] >= _MIN_PX:
        return _at_quantiles(pixels).astype(np.float32)
    found = np.full((num_bands, 2), np.nan, np.float32)
    for c in range(num_bands):
        values = pixels[c][valid[c]]
        if values.size >= _MIN_PX:
            found[c] = _at_quantiles(values)
    return found


def _at_quantiles(values: np.ndarray) -> np.ndarray:
    places = [int(q * (values.shape[-1] - 1)) for q in (LOW, HIGH)]
    return np.partition(values, places, axis=-1)[..., places]


def period_of(day: datetime.date) -> int:
    """The period a day lies in; even numbers are months, an odd one is the end of January 2022."""
    month = 12 * day.year + day.month - 1
    late = (day.year, day.month) == (OFFSET_DAY.year, OFFSET_DAY.month) and day >= OFFSET_DAY
    return 2 * month + late


def first_day(period: int) -> datetime.date:
    """The day a period begins with."""
    year, month = divmod(period // 2, 12)
    return OFFSET_DAY if period % 2 else datetime.date(year, month + 1, 1)


@dataclass
class Sketch:
    """A uniform choice of a group's samples: `values` [K, C, 2] of `count` samples."""

    count: int = 0
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 2), np.float32))

    def merge(self, other: "Sketch") -> None:
        self.count += other.count
        order = np.concatenate([self.order, other.order])
        values = np.concatenate([self.values, other.values]) if self.order.size else other.values
        kept = np.argsort(order, kind="stable")[:_SKETCH_SIZE]
        self.order, self.values = order[kept], values[kept]


class Drift:
    """Sketches per modality and period, and per modality and source."""

    def __init__(self) -> None:
        self.periods: dict[tuple[str, int], Sketch] = {}
        self.sources: dict[tuple[str, str], Sketch] = {}
        self._too_many_sources = False
        self._pending: list[tuple[str, int | None, str, int, np.ndarray]] = []

    def add(
        self, name: str, key: str, day: datetime.date | None, source: str, found: np.ndarray
    ) -> None:
        """Take note of one image's quantiles; call `pack` after the last."""
        period = None if day is None else period_of(day)
        order = xxhash.xxh3_64_intdigest(key.encode())
        self._pending.append((name, period, source, order, found))

    def pack(self) -> None:
        """Make sketches of what was added."""
        by_period: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = {}
        by_source: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
        for name, period, source, order, found in self._pending:
            if period is not None:
                by_period.setdefault((name, period), []).append((order, found))
            by_source.setdefault((name, source), []).append((order, found))
        self._pending = []
        self._merge(
            {group: _sketch(samples) for group, samples in by_period.items()},
            {group: _sketch(samples) for group, samples in by_source.items()},
        )

    def merge(self, other: "Drift") -> None:
        self._merge(other.periods, other.sources)

    def _merge(
        self, periods: dict[tuple[str, int], Sketch], sources: dict[tuple[str, str], Sketch]
    ) -> None:
        for group, sketch in periods.items():
            self.periods.setdefault(group, Sketch()).merge(sketch)
        for group, sketch in sources.items():
            self.sources.setdefault(group, Sketch()).merge(sketch)
        # A source per sample is a name, not a source: nothing to compare, and no bound on memory.
        self._too_many_sources |= len({source for _, source in self.sources}) > _MAX_SOURCES
        if self._too_many_sources:
            self.sources.clear()


def _sketch(samples: list[tuple[int, np.ndarray]]) -> Sketch:
    found = Sketch()
    order = np.array([order for order, _ in samples], np.uint64)
    found.merge(Sketch(len(samples), order, np.stack([values for _, values in samples])))
    return found
