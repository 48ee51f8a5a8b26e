"""What is kept of a shard's samples for the questions that are asked of all samples together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.checks.drift import Drift, quantiles
from shards.checks.looks import NO_LOOK, look_of
from shards.checks.report import Finding, Remarks, Seconds
from shards.checks.sense import day_of, is_acquired
from shards.sample import Part, SampleMeta

NO_DAY = int(np.iinfo(np.int32).min)


@dataclass(frozen=True)
class Columns:
    """A few numbers per sample, [N] each.

    `look` is uint64, `day` int32 since 1970 or NO_DAY, `acquired` a digest of day and product of the
    image that `look` is of (uint64, 0 for unknown), `lon` and `lat` float64 degrees or NaN.
    """

    look: np.ndarray
    day: np.ndarray
    acquired: np.ndarray
    lon: np.ndarray
    lat: np.ndarray

    @classmethod
    def empty(cls, num: int) -> "Columns":
        """Columns of samples of which nothing is known."""
        return cls(
            look=np.full(num, NO_LOOK, np.uint64),
            day=np.full(num, NO_DAY, np.int32),
            acquired=np.zeros(num, np.uint64),
            lon=np.full(num, np.nan),
            lat=np.full(num, np.nan),
        )


@dataclass
class ShardResult:
    """What one shard says.

    `num_stores` tars were read, its own and those of extras. `num_read` counts the samples read that
    have a modality, and under "" all. `tile_m` is the shorter side of the ground its samples cover.
    `columns` and `drift` come with the level of semantics.
    """

    number: int
    findings: list[Finding] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    num_read: Counter[str] = field(default_factory=Counter)
    num_stores: int = 0
    num_parts: int = 0
    num_bytes: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    tile_m: float = np.inf
    columns: Columns | None = None
    drift: Drift | None = None


class Notes:
    """Notes on one shard of N samples. `looks` is the modality that samples are compared by."""

    def __init__(self, rows: Mapping[str, Modality], looks: str | None, num_samples: int) -> None:
        self._rows, self._looks = rows, looks
        self.columns = Columns.empty(num_samples)
        self.drift = Drift()

    def add(self, i: int, key: str, parts: Mapping[str, Part], meta: SampleMeta) -> None:
        """Take note of the sample in slot `i`."""
        columns = self.columns
        if meta.lon is not None and meta.lat is not None:
            columns.lon[i], columns.lat[i] = meta.lon, meta.lat
        date = parts.get("date")
        for name, part in parts.items():
            row = self._rows[name]
            if not isinstance(part, np.ndarray) or not is_acquired(row):
                continue
            text = meta.times.get(name, date if isinstance(date, str) else None)
            day = day_of(text)
            self.drift.add(name, key, day, meta.source, quantiles(part, row))
            if name == self._looks:
                columns.look[i] = look_of(part, row)
                product = meta.products.get(name, "")
                if day is not None:
                    columns.day[i] = day.toordinal() - _EPOCH
                if day is not None or product:
                    columns.acquired[i] = xxhash.xxh3_64_intdigest(f"{day} {product}".encode())


_EPOCH = 719_163
"""1970-01-01 as `datetime.date.toordinal` counts."""


class Whole:
    """What the shards' results add up to; `columns` are those of all samples."""

    def __init__(self) -> None:
        self.columns: Columns | None = None
        self.remarks = Remarks()
        self.num_read: Counter[str] = Counter()
        self.drift = Drift()
        self.tile_m = np.inf

    def merge(self, found: ShardResult, start: int) -> None:
        """Add one shard, whose first sample has the number `start`."""
        self.remarks.merge(found.remarks)
        self.num_read.update(found.num_read)
        self.tile_m = min(self.tile_m, found.tile_m)
        if found.drift is not None:
            self.drift.merge(found.drift)
        if found.columns is not None and self.columns is not None:
            for name, values in vars(found.columns).items():
                getattr(self.columns, name)[start : start + len(values)] = values
