"""Tables for people, JSON for programs, and the verdict on the bars."""

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks._measure import Result
from benchmarks._sections import BARS, Bar, Section

_LIBRARIES = (
    *("webdataset", "mosaicml-streaming", "litdata", "megatron-energon", "zarr", "numcodecs"),
    *("blosc2", "numpy", "torch"),
)
_COLUMNS = ("samples/s", "min - max", "MB/s", "CPU ms", "x peer", "x limit")


@dataclass(frozen=True)
class Row:
    """One line of a table. Ratios are of medians: to the fastest peer and to the fastest limit."""

    section: str
    name: str
    role: str
    samples_per_s: float
    lowest: float
    highest: float
    mb_per_s: float | None
    cpu_ms: float
    to_peer: float | None
    to_limit: float | None


@dataclass(frozen=True)
class Verdict:
    """A bar and what came out, and what the limit measured beside it would have come to.

    No value where a peer was not there.
    """

    bar: Bar
    value: float | None
    limit: float | None

    @property
    def met(self) -> bool:
        return self.value is not None and self.value >= self.bar.at_least

    @property
    def words(self) -> str:
        return f"{self.bar.section} against {self.bar.words}"

    def __str__(self) -> str:
        found = "could not be judged" if self.value is None else f"{self.value:.2f}"
        state = "met" if self.met else "MISSED"
        limit = "" if self.limit is None else f" (the limit: {self.limit:.2f})"
        return f"{state:6}  {self.words}: {found}, at least {self.bar.at_least:g}{limit}"


def make_rows(section: Section, results: list[Result], sample_bytes: int | None) -> list[Row]:
    """The lines of a section, in the order of its contenders."""
    peer = max((r.rate for r in results if r.contender.role == "peer"), default=None)
    limit = max((r.rate for r in results if r.contender.role == "limit"), default=None)
    return [
        Row(
            section=section.name,
            name=r.contender.name,
            role=r.contender.role,
            samples_per_s=r.rate,
            lowest=min(r.rates),
            highest=max(r.rates),
            mb_per_s=r.rate * sample_bytes / 1e6 if sample_bytes else None,
            cpu_ms=r.cpu_ms,
            to_peer=r.rate / peer if peer else None,
            to_limit=r.rate / limit if limit else None,
        )
        for r in results
    ]


def table(rows: Iterable[Row]) -> str:
    """Rows of one section, aligned."""
    lines: list[tuple[str, ...]] = [("", *_COLUMNS)]
    for row in rows:
        lines.append(
            (
                f"({row.name})" if row.role in ("limit", "info") else row.name,
                _number(row.samples_per_s),
                f"{_number(row.lowest)} - {_number(row.highest)}",
                _number(row.mb_per_s),
                f"{row.cpu_ms:.2f}",
                _ratio(row.to_peer),
                _ratio(row.to_limit),
            )
        )
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(w)}" for cell, w in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def judge(rows: Iterable[Row], sections: Iterable[Section]) -> list[Verdict]:
    """Every bar of the sections that were run. A bar needs all the contenders it names."""
    rows = list(rows)
    return [
        _judge(bar, section, {r.name: r for r in rows if r.section == section.name})
        for section in sections
        for bar in BARS
        if bar.section == section.name
    ]


def _judge(bar: Bar, section: Section, rows: dict[str, Row]) -> Verdict:
    against = bar.against or tuple(c.name for c in section.contenders if c.role == "peer")
    if not {bar.ours, *against} <= rows.keys():
        return Verdict(bar, None, None)
    peer = max(rows[name].samples_per_s for name in against)
    limits = [row.samples_per_s for row in rows.values() if row.role == "limit"]
    return Verdict(bar, rows[bar.ours].samples_per_s / peer, max(limits) / peer if limits else None)


def versions() -> dict[str, str]:
    """The installed ones of the libraries that take part."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def document(rows: Iterable[Row], verdicts: Iterable[Verdict], **facts: Any) -> dict[str, Any]:
    """Everything that was found, as JSON values."""
    return {
        **facts,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libraries": versions(),
        "rows": [asdict(row) for row in rows],
        "bars": [
            asdict(v.bar) | {"value": v.value, "limit": v.limit, "met": v.met} for v in verdicts
        ],
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
