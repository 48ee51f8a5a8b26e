"""Samples that are in a data set twice, or nearly.

- Equal: the digests of all their parts are, or those of the image that samples are compared by.
- The same acquisition: that image has the same day and product, and the centres are near: closer than a
  quarter of a tile for certain, half a tile at most.
- Alike: their looks (`looks`) differ in at most two bits, within a grid cell; without coordinates, when
  the looks are the same. Images of one place on two days are a series, not duplicates.

Pairs are found by sorting. Of several that are equal each is paired with the next, so m of them make
m - 1 pairs; a group that lies in two splits has at least one pair across them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shards.checks.looks import NO_LOOK, RUNS, alike, run_of
from shards.checks.notes import NO_DAY, Columns
from shards.checks.report import Report, Severity
from shards.checks.table import Splits, Table
from shards.mixing import mix_with
from shards.plan import grid_cells

_M_PER_DEG = 111_320.0
# Cells with more samples than this are compared with as many neighbours in the order of their looks.
_MAX_NEIGHBOURS = 256


class Pairs(NamedTuple):
    """Numbers of samples that belong together: first and second [P], the first the smaller."""

    first: np.ndarray
    second: np.ndarray

    def take(self, chosen: np.ndarray) -> "Pairs":
        return Pairs(self.first[chosen], self.second[chosen])


@dataclass(frozen=True)
class Twins:
    """Everything that tells samples apart: [N] each; `image` are digests of the image, 0 for none."""

    keys: Sequence[str]
    table: Table
    columns: Columns
    image: np.ndarray
    name: str | None
    tile_m: float
    cell_deg: float


def check_duplicates(report: Report, twins: Twins, splits: Sequence[Splits]) -> None:
    """Tell of pairs, and of those that lie in two splits of the build or of a later dealing-out."""
    content = equal_pairs(twins.table.content, np.ones(len(twins.keys), bool))
    # Flat images are equal to each other without being images of the same thing.
    shown = (twins.image != 0) & (twins.columns.look != NO_LOOK)
    image = _without(equal_pairs(twins.image, shown), twins.table.content)
    same = _without(same_acquisitions(twins), twins.table.content, twins.image)
    near = _without(_minus(alike_pairs(twins), same), twins.table.content, twins.image)
    name = twins.name or "image"
    groups: list[tuple[Pairs, str, Severity]] = [
        (content, "hold the same data", "error"),
        (image, f"have the same {name}, bit for bit", "error"),
        (same, f"show the same {name} acquisition of the same ground", "warning"),
        (near, f"have {name} images that look alike", "warning"),
    ]
    for pairs, what, across in groups:
        _tell(report, twins.keys, pairs, what)
        for dealt in splits:
            _tell_across(report, twins.keys, pairs, what, dealt, across)


def equal_pairs(codes: np.ndarray, known: np.ndarray) -> Pairs:
    """Samples with equal codes, among those known."""
    numbers = np.flatnonzero(known)
    order = numbers[np.argsort(codes[numbers], kind="stable")]
    same = codes[order[1:]] == codes[order[:-1]]
    return Pairs(order[:-1][same], order[1:][same])


def same_acquisitions(twins: Twins) -> Pairs:
    """Samples of one acquisition whose centres are near each other.

    Grids of half a tile's width are laid four times, shifted by half of that: two centres closer than
    half a cell share a cell of one of them.
    """
    lon, lat = twins.table.lon, twins.table.lat
    known = (twins.columns.acquired != 0) & np.isfinite(lon) & np.isfinite(lat)
    width_m = twins.tile_m / 2 if np.isfinite(twins.tile_m) else 1.0
    found = []
    for shift_x, shift_y in itertools.product((0.0, 0.5), repeat=2):
        row = np.floor(np.where(known, lat, 0) * (_M_PER_DEG / width_m) + shift_y)
        narrowed = np.cos(np.radians(row * width_m / _M_PER_DEG)) * _M_PER_DEG / width_m
        column = np.floor(np.where(known, lon, 0) * narrowed + shift_x)
        code = mix_with(column.astype(np.int64), 0) ^ mix_with(row.astype(np.int64), 1)
        found.append(equal_pairs(code ^ twins.columns.acquired, known))
    return _united(found)


def alike_pairs(twins: Twins) -> Pairs:
    """Samples of one grid cell whose looks differ in two bits or less; see above."""
    look, day = twins.columns.look, twins.columns.day
    lon, lat = twins.table.lon, twins.table.lat
    shown = look != NO_LOOK
    placed = shown & np.isfinite(lon) & np.isfinite(lat)
    found = [equal_pairs(look, shown & ~placed)]
    numbers = np.flatnonzero(placed)
    cells = mix_with(grid_cells(lon[numbers], lat[numbers], twins.cell_deg), 2)
    for run in RUNS:
        code = cells ^ mix_with(run_of(look[numbers], run), run[0])
        order = np.lexsort((look[numbers], code))
        found += _neighbours(numbers[order], code[order], look)
    pairs = _united(found)
    days = day[pairs.first], day[pairs.second]
    series = (days[0] != days[1]) & (days[0] != NO_DAY) & (days[1] != NO_DAY)
    return pairs.take(~series)


def _neighbours(numbers: np.ndarray, code: np.ndarray, look: np.ndarray) -> list[Pairs]:
    """Pairs that share a code and look alike; `numbers` are sorted by code."""
    found = []
    at = np.arange(len(numbers))
    for step in range(1, _MAX_NEIGHBOURS + 1):
        at = at[: np.searchsorted(at, len(numbers) - step)]
        at = at[code[at] == code[at + step]]
        if not len(at):
            break
        first, second = numbers[at], numbers[at + step]
        found.append(Pairs(first, second).take(alike(look[first], look[second])))
    return found


def _united(found: Sequence[Pairs]) -> Pairs:
    """All pairs once, the smaller number first, in order."""
    first = np.concatenate([np.minimum(*pairs) for pairs in found])
    second = np.concatenate([np.maximum(*pairs) for pairs in found])
    pairs = np.unique(np.stack([first, second]), axis=1)
    return Pairs(*pairs.astype(np.int64))


def _without(pairs: Pairs, *codes: np.ndarray) -> Pairs:
    """Pairs that differ in each code, so that nothing is told twice; 0 differs from everything."""
    differing = np.ones(len(pairs.first), bool)
    for code in codes:
        one, two = code[pairs.first], code[pairs.second]
        differing &= (one != two) | (one == 0)
    return pairs.take(differing)


def _minus(pairs: Pairs, others: Pairs) -> Pairs:
    """Pairs that are not among the others."""
    mine, theirs = (p.first << 32 | p.second for p in (pairs, others))
    return pairs.take(~np.isin(mine, theirs))


def _tell(report: Report, keys: Sequence[str], pairs: Pairs, what: str) -> None:
    if len(pairs.first):
        report.warning(
            "semantics",
            report.path,
            f"{_count(pairs)} of samples {what}, such as {_example(keys, pairs)}",
            "leave one of each out of the source, or know that it counts twice",
        )


def _tell_across(
    report: Report, keys: Sequence[str], pairs: Pairs, what: str, splits: Splits, severity: Severity
) -> None:
    one, two = splits.split_of[pairs.first], splits.split_of[pairs.second]
    pairs, one, two = pairs.take(one != two), one[one != two], two[one != two]
    if not len(pairs.first):
        return
    names = " and ".join(sorted(splits.names[s] for s in (one[0], two[0])))
    told = report.error if severity == "error" else report.warning
    told(
        "semantics",
        splits.where,
        f"{_count(pairs)} of samples in two splits {what}, such as {_example(keys, pairs)} "
        f"in {names}",
        "scores on what was trained on are too good: leave one of each out of the source",
    )


def _count(pairs: Pairs) -> str:
    num = len(pairs.first)
    return "1 pair" if num == 1 else f"{num} pairs"


def _example(keys: Sequence[str], pairs: Pairs) -> str:
    return f"{keys[int(pairs.first[0])]} and {keys[int(pairs.second[0])]}"
