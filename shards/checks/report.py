"""Findings, and remarks that count the samples they hold for."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LEVELS = ("sizes", "walk", "digests", "decode", "semantics")
REMAKE = "remove the shard's .tar and .idx and run the same build again"
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or strange: where, what, and what to do about it."""

    severity: Severity
    level: str
    where: str
    what: str
    todo: str


def make_error(level: str, where: str | Path, what: str, todo: str) -> Finding:
    """An error; the message of an exception may begin with where it is."""
    return Finding("error", level, str(where), what.removeprefix(f"{where}: "), todo)


@dataclass
class Report:
    """What was looked at and what was found.

    `num_read` of the `num_shards` shards, extras included, were read at the levels asked for beyond
    `sizes`; they have `num_parts` parts. `seconds` are spent per level, summed over processes, and
    in `total` by the clock on the wall.
    """

    path: Path
    level: str
    num_shards: int = 0
    num_read: int = 0
    num_samples: int = 0
    num_parts: int = 0
    num_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def ok(self) -> bool:
        return not self.errors

    def error(self, level: str, where: str | Path, what: str, todo: str = REMAKE) -> None:
        self.findings.append(make_error(level, where, what, todo))

    def warning(self, level: str, where: str | Path, what: str, todo: str) -> None:
        self.findings.append(Finding("warning", level, str(where), what, todo))

    def to_dict(self) -> dict[str, object]:
        return {
            "path": str(self.path),
            "level": self.level,
            "ok": self.ok,
            "num_shards": self.num_shards,
            "num_read": self.num_read,
            "num_samples": self.num_samples,
            "num_parts": self.num_parts,
            "num_bytes": self.num_bytes,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "findings": [dataclasses.asdict(f) for f in self.findings],
        }


class ShardErrors:
    """Errors of one shard; the first few are told, the others counted.

    A shard that is all damage must not fill the report of nine thousand shards.
    """

    MAX_TOLD = 20

    def __init__(self) -> None:
        self._told: list[Finding] = []
        self._more = 0

    def add(self, level: str, where: str | Path, what: str, todo: str = REMAKE) -> None:
        if len(self._told) < self.MAX_TOLD:
            self._told.append(make_error(level, where, what, todo))
        else:
            self._more += 1

    def findings(self) -> list[Finding]:
        if not self._more:
            return self._told
        last = self._told[-1]
        return [*self._told, dataclasses.replace(last, what=f"{self._more} more errors like these")]


class Remarks:
    """What holds for one sample or many: counted, with one of them as an example.

    A remark is a Finding without numbers. The example is the sample with the largest `size`, the
    first of several.
    """

    def __init__(self) -> None:
        self._found: dict[Finding, tuple[int, float, str]] = {}

    def add(self, remark: Finding, example: str, size: float = 0.0, count: int = 1) -> None:
        num, largest, kept = self._found.get(remark, (0, size, example))
        best = (size, example) if size > largest else (largest, kept)
        self._found[remark] = (num + count, *best)

    def merge(self, other: "Remarks") -> None:
        for remark, (count, size, example) in other._found.items():
            self.add(remark, example, size, count)

    def findings(self, num_read: Mapping[str, int]) -> list[Finding]:
        """One finding each; `num_read` says how many samples were read that have a modality.

        The entry "" counts all samples that were read.
        """
        return [
            dataclasses.replace(
                remark,
                what=f"{remark.what} in {count} of {num_read.get(remark.where, num_read[''])} "
                f"samples, such as {example}",
            )
            for remark, (count, _, example) in self._found.items()
        ]


class Seconds(dict[str, float]):
    """Seconds by level."""

    def add(self, level: str, seconds: float) -> None:
        self[level] = self.get(level, 0.0) + seconds


class Timed:
    """Adds the time a block takes to the seconds of its level."""

    def __init__(self, seconds: Seconds, level: str) -> None:
        self._seconds, self._level = seconds, level

    def __enter__(self) -> None:
        self._begin_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds.add(self._level, time.perf_counter() - self._begin_s)
