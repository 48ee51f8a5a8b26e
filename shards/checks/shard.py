"""One shard and its extras, read once, front to back."""

import datetime
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.checks.drift import Drift, quantiles
from shards.checks.files import StoredShard, TarWalk, check_sizes
from shards.checks.looks import NO_LOOK, look_of
from shards.checks.report import LEVELS, Finding, Remarks, Seconds, ShardErrors
from shards.checks.sense import Seen, Sense, day_of, is_acquired
from shards.checks.values import strange_values
from shards.codec import META_PART, decode_meta, decode_part
from shards.errors import DamagedError
from shards.index import ShardIndex
from shards.sample import Part, SampleMeta, part_problem

NO_DAY = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Context:
    """What is the same for all shards of a check; `looks` is the modality samples are compared by."""

    level: str
    rows: Mapping[str, Modality]
    looks: str | None
    today: datetime.date
    max_days: int

    def asks(self, level: str) -> bool:
        return LEVELS.index(self.level) >= LEVELS.index(level)


@dataclass(frozen=True)
class ShardTask:
    """A shard of the data set, first, and the same one of every extra; `read` goes beyond sizes."""

    number: int
    stores: Sequence[StoredShard]
    read: bool


@dataclass(frozen=True)
class Columns:
    """A few numbers per sample: [N] each.

    `look` is uint64, `day` int32 since 1970 or NO_DAY, `acquired` a digest of day and product of the
    image that `look` is of (uint64, 0 for unknown), `lon` and `lat` float64 degrees or NaN.
    """

    look: np.ndarray
    day: np.ndarray
    acquired: np.ndarray
    lon: np.ndarray
    lat: np.ndarray


@dataclass
class ShardResult:
    """What one shard says. `num_read` counts the samples read that have a modality, "" all."""

    number: int
    findings: list[Finding] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    num_read: Counter[str] = field(default_factory=Counter)
    num_parts: int = 0
    num_bytes: int = 0
    seconds: Seconds = field(default_factory=Counter)
    drift: Drift = field(default_factory=Drift)
    tile_m: float = 0.0
    columns: Columns | None = None


def check_shard(context: Context, task: ShardTask) -> ShardResult:
    """Read what the level asks for. Never raises for what it finds."""
    return _ShardCheck(context, task).run()


class _ShardCheck:
    def __init__(self, context: Context, task: ShardTask) -> None:
        self._context, self._task = context, task
        self._errors = ShardErrors()
        self._result = ShardResult(task.number)
        self._sense = Sense(context.rows, context.today, context.max_days, self._result.remarks)

    def run(self) -> ShardResult:
        found = self._result
        begin_s = time.perf_counter()
        indices = [check_sizes(store, self._errors) for store in self._task.stores]
        found.seconds["sizes"] += time.perf_counter() - begin_s
        if self._task.read and indices[0] is not None:
            self._read([(s, i) for s, i in zip(self._task.stores, indices, strict=True) if i])
        found.findings = self._errors.findings()
        return found

    def _read(self, stores: list[tuple[StoredShard, ShardIndex]]) -> None:
        own = stores[0][1]
        aligned = []
        for store, index in stores:
            if index.keys.text == own.keys.text and np.array_equal(index.keys.ends, own.keys.ends):
                aligned.append((store, index))
            else:
                what = "its samples are not those of the data set's shard"
                self._errors.add("walk", store.tar, what, "remove that extra and make it again")
        digests = self._context.asks("digests")
        with ExitStack() as stack:
            walks: list[tuple[TarWalk, ShardIndex]] = []
            for store, index in aligned:
                try:
                    walk = TarWalk(store.tar, index, self._errors, digests=digests)
                except OSError as error:
                    self._errors.add("walk", store.tar, f"cannot be read: {error}")
                else:
                    walks.append((stack.enter_context(walk), index))
            try:
                self._read_samples(walks, own)
            except OSError as error:
                self._errors.add("walk", stores[0][0].tar, f"cannot be read: {error}")

    def _read_samples(self, walks: list[tuple[TarWalk, ShardIndex]], own: ShardIndex) -> None:
        columns = _empty_columns(own.num_samples)
        for i, key in enumerate(own.keys):
            self._result.num_read[""] += 1
            parts, meta = self._decoded(walks, i, key)
            if self._context.asks("semantics") and meta is not None:
                begin_s = time.perf_counter()
                self._look(i, key, parts, meta, columns)
                self._result.seconds["semantics"] += time.perf_counter() - begin_s
        for walk, _ in walks:
            walk.finish()
        if self._context.asks("semantics"):
            self._sense.finish()
            self._result.drift.pack()
            self._result.columns = columns

    def _decoded(
        self, walks: list[tuple[TarWalk, ShardIndex]], i: int, key: str
    ) -> tuple[dict[str, Part], SampleMeta | None]:
        """The parts of a sample that are what their rows say, and its meta data."""
        parts: dict[str, Part] = {}
        meta: SampleMeta | None = None
        for p, part, data in self._members(walks, i, key):
            if data is None or not self._context.asks("decode"):
                continue
            begin_s = time.perf_counter()
            name, _, extension = part.partition(".")
            try:
                found = decode_part(extension, data)
                if part == META_PART:
                    assert isinstance(found, str)
                    meta = decode_meta(found)
            except DamagedError as error:
                self._errors.add("decode", p, f"{key}.{part}: {error}")
            else:
                if part != META_PART and self._fits(key, name, found):
                    parts[name] = found
            self._result.seconds["decode"] += time.perf_counter() - begin_s
        return parts, meta
