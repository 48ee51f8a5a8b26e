"""Breaks in what images look like, by date and by source.

Compared are medians over samples of the low quantile per band: of the twelve months with images before
a day and the twelve after it, so that seasons cancel, or of more where images are few. The spread within
a group is the median absolute deviation, scaled to a normal distribution's; the error of a median is
1.2533 spread / sqrt(n).

- Sentinel-2's offset: from 2022-01-25 on all bands are 1,000 higher or lower than before.
- Any other step, at the beginning of a month: all bands in one direction, by more than the spread, and
  by many times the error. Images of a single band have no bands to agree: they are not asked.
- A source that lies as far from all others together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.schema.modality import Modality
from shards.checks.drift import OFFSET_DAY, Drift, Sketch, first_day, period_of
from shards.checks.report import Finding

OFFSET_DN = 1000.0
_SENTINEL_2 = ("S2L1C", "S2L2A")
_MIN_OFFSET_SAMPLES = 10
_MIN_SAMPLES = 20
_NUM_PERIODS = 12
_ENOUGH_SAMPLES = 200
_AGREEING = 0.8
_TOLERANCE_DN = 250.0
_LARGE = 1.5
_CERTAIN = 5.0
_CLEAR = 4.0
_MEDIAN_ERROR = 1.2533
_NORMAL_MAD = 1.4826


class Step(NamedTuple):
    """Medians per band on both sides, the spread within them and the error of their difference [C].

    `contrast` is the difference of the means over their deviation, of the typical band: what medians
    forgive, a month on the wrong side of a border, it does not.
    """

    before: np.ndarray
    after: np.ndarray
    spread: np.ndarray
    error: np.ndarray
    contrast: float
    num_before: int
    num_after: int

    @property
    def size(self) -> np.ndarray:
        return self.after - self.before

    @property
    def strength(self) -> float:
        """How many spreads the typical band moved."""
        return float(np.median(np.abs(self.size) / self.spread))


def find_steps(
    drift: Drift, rows: Mapping[str, Modality], source: Mapping[str, Any]
) -> list[Finding]:
    """Warnings, at most one by date and one by source for each modality.

    `source` is the configuration of the data set's source: what to do depends on it.
    """
    found = []
    for name, row in rows.items():
        periods = {p: s for (own, p), s in sorted(drift.periods.items()) if own == name}
        offset = _offset_step(periods) if name in _SENTINEL_2 else None
        if offset:
            found.append(_offset_finding(name, offset, source))
        elif row.num_bands > 1:
            found += _step_by_date(name, periods)
        sources = {s: sketch for (own, s), sketch in sorted(drift.sources.items()) if own == name}
        if row.num_bands > 1 and len(sources) > 1:
            found += _step_by_source(name, sources)
    return found


def compare(before: Sequence[Sketch], after: Sequence[Sketch]) -> Step | None:
    """The step from one side to the other over the bands both have; None when they have none."""
    sides = [_low(side) for side in (before, after)]
    if not all(len(side) for side in sides):
        return None
    known = np.all([np.isfinite(side).mean(0) >= 0.5 for side in sides], axis=0)
    whole = [side[:, known][np.isfinite(side[:, known]).all(1)] for side in sides]
    if not known.any() or not all(len(side) for side in whole):
        return None
    one, two = whole
    medians = [np.median(side, axis=0) for side in whole]
    spreads = [
        _NORMAL_MAD * np.median(np.abs(side - median), axis=0)
        for side, median in zip(whole, medians, strict=True)
    ]
    # Images without any spread, such as constant ones, must not divide by zero.
    spread = np.maximum(np.maximum(*spreads), 1e-6 * np.abs(medians[0]) + 1e-9)
    error = _MEDIAN_ERROR * spread * np.sqrt(1 / len(one) + 1 / len(two))
    deviation = np.sqrt((one.var(0) + two.var(0)) / 2) + 1e-9
    contrast = float(np.median(np.abs(one.mean(0) - two.mean(0)) / deviation))
    counts = [sum(sketch.count for sketch in side) for side in (before, after)]
    return Step(medians[0], medians[1], spread, error, contrast, counts[0], counts[1])


def _low(sketches: Sequence[Sketch]) -> np.ndarray:
    values = [sketch.values[:, :, 0] for sketch in sketches if len(sketch.values)]
    return np.concatenate(values).astype(np.float64) if values else np.empty((0, 0))


def _around(periods: Mapping[int, Sketch], border: int) -> Step | None:
    """The step from the periods next before `border` to those from it on."""
    ordered = sorted(periods)
    before = [periods[p] for p in reversed(ordered) if p < border]
    after = [periods[p] for p in ordered if p >= border]
    return compare(_nearest(before), _nearest(after))


def _nearest(sketches: Sequence[Sketch]) -> Sequence[Sketch]:
    """The first of the sketches: twelve, or more where they are thin."""
    num, num_samples = 0, 0
    while num < len(sketches) and (num < _NUM_PERIODS or num_samples < _ENOUGH_SAMPLES):
        num_samples += len(sketches[num].values)
        num += 1
    return sketches[:num]


def _offset_step(periods: Mapping[int, Sketch]) -> Step | None:
    """The step at the day of the offset when it is the offset."""
    step = _around(periods, period_of(OFFSET_DAY))
    if step is None or min(step.num_before, step.num_after) < _MIN_OFFSET_SAMPLES:
        return None
    # Bands whose medians are not known to a fraction of the offset can neither confirm nor deny.
    precise = step.error < _TOLERANCE_DN
    if precise.mean() < 0.5:
        return None
    size, error = step.size[precise], step.error[precise]
    expected = np.copysign(OFFSET_DN, np.median(size))
    agreeing = np.abs(size - expected) <= _TOLERANCE_DN + 2 * error
    # Bands move together, so many of them that could be unmoved are no proof.
    agreeing &= np.abs(size) >= _CLEAR * error
    return step if agreeing.mean() >= _AGREEING else None


def _step_by_date(name: str, periods: Mapping[int, Sketch]) -> list[Finding]:
    found: list[tuple[float, int, Step]] = []
    for border in sorted(periods)[1:]:
        step = _around(periods, border)
        if step and _is_large(step):
            found.append((step.contrast, border, step))
    if not found:
        return []
    _, border, step = max(found, key=lambda f: f[0])
    what = (
        f"from {first_day(border)} on its values differ from those before in all bands alike, by "
        f"{step.strength:.1f} times their spread: {_sizes(step, 'before', 'after')}"
    )
    todo = (
        "a change of processing, of sensor or, in less than a year, of season: compare samples of "
        "both sides with `python -m shards preview`; harmonise them in the source, or train on one "
        "side with data.filter.dates"
    )
    return [Finding("warning", "semantics", name, what, todo)]


def _step_by_source(name: str, sources: Mapping[str, Sketch]) -> list[Finding]:
    found = []
    for source, sketch in sources.items():
        others = [other for own, other in sources.items() if own != source]
        step = compare(others, [sketch])
        if step and _is_large(step):
            what = (
                f"source {source!r} differs from the others in all bands alike, by "
                f"{step.strength:.1f} times their spread: {_sizes(step, 'elsewhere', 'there')}"
            )
            todo = (
                "another unit, another processing, or another part of the world: compare samples of "
                "both with `python -m shards preview`, and harmonise the source when it is the unit"
            )
            found.append((step.strength, Finding("warning", "semantics", name, what, todo)))
    return [max(found, key=lambda f: f[0])[1]] if found else []


def _is_large(step: Step) -> bool:
    one_way = abs(np.sign(step.size).sum()) >= _AGREEING * len(step.size)
    certain = float(np.median(np.abs(step.size) / step.error)) >= _CERTAIN
    enough = min(step.num_before, step.num_after) >= _MIN_SAMPLES
    return bool(enough and one_way and certain and step.strength >= _LARGE)


def _offset_finding(name: str, step: Step, source: Mapping[str, Any]) -> Finding:
    size = float(np.median(step.size))
    near = int((np.abs(np.abs(step.size) - OFFSET_DN) <= _TOLERANCE_DN + 2 * step.error).sum())
    what = (
        f"from {OFFSET_DAY} on its values are about {abs(size):.0f} {'higher' if size > 0 else 'lower'} "
        f"than before, in {near} of {len(step.size)} bands: the offset of 1,000 of processing "
        f"baseline 04.00 is not harmonised; {_sizes(step, 'before', 'after')}"
    )
    harmonised = source.get("harmonise_s2")
    if harmonised is not None and bool(harmonised) == (size > 0):
        todo = f"build again with source.harmonise_s2={'false' if harmonised else 'true'}"
    elif source.get("type") == "synthetic":
        todo = (
            "the synthetic Earth has this offset on purpose, as the products do; train on one side "
            "with data.filter.dates to be without it"
        )
    else:
        # TerraMesh's option adds; it is no answer to values that are too high.
        option = "" if size > 0 else " (for TerraMesh: source.harmonise_s2=true)"
        todo = (
            f"{'take 1,000 from' if size > 0 else 'add 1,000 to'} what was acquired from {OFFSET_DAY} "
            f"on before it is built{option}, or train on one side with data.filter.dates"
        )
    return Finding("warning", "semantics", name, what, todo)


def _sizes(step: Step, before: str, after: str) -> str:
    return (
        f"its 2 % quantile is {np.median(step.before):.4g} {before} ({step.num_before} samples) and "
        f"{np.median(step.after):.4g} {after} ({step.num_after})"
    )
