"""One shard and its extras, read once, front to back."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from configs.schema.modality import Modality
from shards.checks.files import StoredShard, TarWalk, check_sizes
from shards.checks.notes import Notes, ShardResult
from shards.checks.report import LEVELS, Finding, ShardErrors, Timed
from shards.checks.sense import Seen, Sense
from shards.checks.values import strange_values
from shards.codec import META_PART, decode_meta, decode_part
from shards.errors import DamagedError
from shards.index import ShardIndex
from shards.sample import Part, SampleMeta, part_problem

_LOOK = "look at them: python -m shards preview; nodata pixels are left out of training"


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


class _Member(NamedTuple):
    walk: TarWalk
    part: str
    data: memoryview


def check_shard(context: Context, task: ShardTask) -> ShardResult:
    """Read what the level asks for. Never raises for what it finds."""
    return _ShardCheck(context, task).run()


class _ShardCheck:
    def __init__(self, context: Context, task: ShardTask) -> None:
        self._context, self._task = context, task
        self._errors = ShardErrors()
        self._result = ShardResult(task.number)

    def run(self) -> ShardResult:
        with Timed(self._result.seconds, "sizes"):
            indices = [check_sizes(store, self._errors) for store in self._task.stores]
        own = indices[0]
        if self._task.read and own is not None:
            with ExitStack() as stack:
                walks = []
                for store, index in zip(self._task.stores, indices, strict=True):
                    if index is not None and self._is_aligned(store, index, own):
                        self._count(index)
                        digests = self._context.asks("digests")
                        walk = TarWalk(store.tar, index, self._errors, digests=digests)
                        walks.append(stack.enter_context(walk))
                self._result.num_stores = len(walks)
                self._read(walks, own)
        self._result.findings = self._errors.findings()
        return self._result

    def _is_aligned(self, store: StoredShard, index: ShardIndex, own: ShardIndex) -> bool:
        if index.keys.text == own.keys.text and np.array_equal(index.keys.ends, own.keys.ends):
            return True
        what = "its samples are not those of the data set's shard"
        self._errors.add("walk", store.tar, what, "remove that extra and make it again")
        return False

    def _count(self, index: ShardIndex) -> None:
        for p, part in enumerate(index.parts):
            name = part.partition(".")[0]
            num = int((index.present >> np.uint32(p) & np.uint32(1)).sum())
            self._result.num_parts += num
            if part != META_PART:
                self._result.num_read[name] += num

    def _read(self, walks: list[TarWalk], own: ShardIndex) -> None:
        context, result = self._context, self._result
        result.num_read[""] += own.num_samples
        notes = Notes(context.rows, context.looks, own.num_samples)
        sense = Sense(context.rows, context.today, context.max_days, result.remarks)
        for i, key in enumerate(own.keys):
            parts: dict[str, Part] = {}
            meta: SampleMeta | None = None
            for member in self._members(walks, i, key):
                if context.asks("decode"):
                    with Timed(result.seconds, "decode"):
                        name, found = self._decode(key, member)
                    if isinstance(found, SampleMeta):
                        meta = found
                    elif found is not None:
                        parts[name] = found
            if context.asks("semantics") and meta is not None:
                with Timed(result.seconds, "semantics"):
                    sense.check(key, meta, self._seen(parts))
                    notes.add(i, key, parts, meta)
        for walk in walks:
            walk.finish()
        if context.asks("semantics"):
            sense.finish()
            notes.drift.pack()
            result.columns, result.drift = notes.columns, notes.drift

    def _members(self, walks: list[TarWalk], i: int, key: str) -> Iterator[_Member]:
        """What can be read of a sample, in the order of the tars."""
        result = self._result
        level = "digests" if self._context.asks("digests") else "walk"
        for walk in walks:
            present = int(walk.index.present[i])
            for p, part in enumerate(walk.index.parts):
                if not present >> p & 1:
                    continue
                with Timed(result.seconds, level):
                    data = walk.member(i, p, key)
                if data is not None:
                    result.num_bytes += len(data)
                    yield _Member(walk, part, data)

    def _decode(self, key: str, member: _Member) -> tuple[str, Part | SampleMeta | None]:
        """A part by name when it is what its row says; strange values become remarks."""
        name, _, extension = member.part.partition(".")
        try:
            part = decode_part(extension, member.data)
            if member.part == META_PART:
                return name, decode_meta(str(part))
        except DamagedError as error:
            # Its digest fits, so it was written like this.
            self._errors.add("decode", member.walk.tar, f"{key}.{member.part}: {error}")
            return name, None
        row = self._context.rows.get(name)
        if row is None:
            return name, None
        wrong = part_problem(part, row)
        if wrong:
            self._errors.add("decode", f"{key}.{name}", wrong)
            return name, None
        if isinstance(part, np.ndarray):
            for what in strange_values(part, row):
                self._result.remarks.add(Finding("warning", "decode", name, what, _LOOK), key)
        return name, part

    def _seen(self, parts: Mapping[str, Part]) -> Seen:
        ground: dict[str, tuple[float, float]] = {}
        for name, part in parts.items():
            row = self._context.rows[name]
            if row.is_map and row.gsd_m and isinstance(part, np.ndarray):
                ground[name] = (part.shape[1] * row.gsd_m, part.shape[2] * row.gsd_m)
        for sides in ground.values():
            self._result.tile_m = min(self._result.tile_m, *sides)
        place, date = parts.get("coordinates"), parts.get("date")
        coordinates = (float(place[0]), float(place[1])) if isinstance(place, np.ndarray) else None
        return Seen(ground, coordinates, date if isinstance(date, str) else None)
