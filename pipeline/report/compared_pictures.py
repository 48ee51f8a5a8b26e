"""Tokenizers side by side in pictures: the truth, each arm's reconstruction, and the resampler's."""

from dataclasses import dataclass

import numpy as np

from configs.schema import Modality
from pipeline.report.cells import MISSING, fitting, map_cell, value_span
from pipeline.report.collect import Found
from pipeline.report.comparison import ComparedRun, Comparison
from pipeline.report.files import read_arrays
from pipeline.report.html import Markup, absent, scroll, section, tag
from pipeline.report.pictures import Painter, legend_of
from pipeline.report.scores import picture_score

_FILE = "reconstructions.npz"
_NUM_WINDOWS = 3


def compared_pictures_section(found: Found, painter: Painter) -> Markup:
    """A table of pictures per modality: a row per held-out window."""
    title, comparison = "Reconstructions", found.comparison
    if comparison is None or not any(r.run.done for r in comparison.runs):
        return section("pictures", title, absent(f"No run has left {_FILE} yet."))
    lead = (
        "The same held-out windows before and after, each arm by the first of its seeds that has "
        "finished. Maps of one row share one colour stretch; errors are of the window shown."
    )
    grids = [
        _grid(comparison, found.modality(name), painter, found.notes)
        for name in comparison.modalities
    ]
    return section("pictures", title, tag("p", lead, class_="lead"), grids)


@dataclass(frozen=True)
class _Column:
    """What one way made of all windows [K, C, H, W]; None where there is nothing to show."""

    title: str
    maps: np.ndarray | None

    def value(self, k: int) -> np.ndarray | None:
        return None if self.maps is None or k >= len(self.maps) else self.maps[k]


def _grid(
    comparison: Comparison, row: Modality | None, painter: Painter, notes: list[str]
) -> Markup:
    assert row is not None
    title = tag("h3", row.name)
    stored = {arm: _stored(comparison.of(row.name, arm), row, notes) for arm in comparison.arms}
    first = next((arrays for arrays in stored.values() if arrays), None)
    if first is None:
        return tag("article", title, absent(f"{row.name}: no {_FILE} yet."))
    truth = first["truth"]
    columns = []
    for arm, arrays in stored.items():
        same = bool(arrays) and np.array_equal(arrays["truth"], truth)
        if arrays and not same:
            notes.append(f"{row.name} {arm}: {_FILE} shows other windows than those of other arms")
        columns.append(_Column(arm, arrays["restored"] if same else None))
    plain = first["baseline"] if fitting(first, "baseline", row) else None
    columns.append(_Column("resampling", plain))
    head = [tag("th", name, scope="col") for name in ("truth", *(c.title for c in columns))]
    body = [
        tag("tr", [tag("td", inner) for inner in _cells(truth[k], columns, row, painter, k)])
        for k in range(min(_NUM_WINDOWS, len(truth)))
    ]
    label = f"{row.name}: truth and reconstructions"
    shown = tag(
        "table", tag("thead", tag("tr", head)), tag("tbody", body), class_="pictures",
        aria_label=label, style=f"--columns:{len(head):.1f}",
    )  # fmt: skip
    maps = [truth, *(c.maps for c in columns if c.maps is not None)]
    key = tag("dl", legend_of(row, maps), class_="legends")
    return tag("article", title, scroll(f"Pictures of {row.name}", shown), key)


def _stored(runs: list[ComparedRun], row: Modality, notes: list[str]) -> dict[str, np.ndarray]:
    """The arrays of the first run that has finished; empty where none has."""
    for one in runs:
        if one.run.done:
            arrays = read_arrays(one.run.folder / _FILE, notes)
            if all(fitting(arrays, name, row) for name in ("truth", "restored")):
                return arrays
    return {}


def _cells(
    truth: np.ndarray, columns: list[_Column], row: Modality, painter: Painter, k: int
) -> list[Markup]:
    made = [column.value(k) for column in columns]
    window = f"window {k + 1}"
    note = value_span(truth, row)
    cells = [map_cell(painter, row, [truth, *made], alt=f"{row.name} truth, {window}", note=note)]
    for i, (column, guess) in enumerate(zip(columns, made, strict=True)):
        if guess is None:
            cells.append(MISSING)
            continue
        others = [truth, *made[:i], *made[i + 1 :]]
        alt = f"{row.name} {column.title}, {window}"
        note = picture_score(guess, truth, row)
        cells.append(map_cell(painter, row, [guess, *others], alt=alt, note=note))
    return cells
