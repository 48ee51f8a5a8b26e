"""What was generated on held-out samples, in pictures beside the input and the truth."""

from dataclasses import dataclass

import numpy as np

from configs.schema import Modality
from pipeline.report.cells import (
    MISSING,
    fitting,
    map_cell,
    pair_cells,
    picture_table,
    unfinished,
    words_cell,
)
from pipeline.report.collect import Found, Generation
from pipeline.report.html import Markup, absent, scroll, section, tag
from pipeline.report.pictures import Painter, legend_of


def generated_section(found: Found, painter: Painter) -> Markup:
    """One table of pictures per task: a row per sample, the input first, then pairs."""
    title = "Generated maps"
    if not found.generations:
        return section("generated", title, absent("Nothing was generated: generate/ is missing."))
    lead = (
        "Held-out samples, one a row. From the input alone the model generated the tokens of the other "
        "modalities, and their stage-1 decoders made maps of them. The two maps of a pair share one "
        "colour stretch."
    )
    tasks = [pictures_of(task, found, painter) for task in found.generations]
    return section("generated", title, tag("p", lead, class_="lead"), tasks)


@dataclass(frozen=True)
class _Column:
    """One modality of the table: an input, or a pair of generated and true."""

    row: Modality
    is_source: bool
    values: dict[str, np.ndarray]
    present: dict[str, np.ndarray]

    def value(self, way: str, r: int) -> np.ndarray | str | None:
        """One sample's map or text; None where the sample lacks it."""
        values, present = self.values[way], self.present.get(way)
        if r >= len(values) or (present is not None and not present[r]):
            return None
        return values[r] if values[r].ndim else str(values[r])


def pictures_of(task: Generation, found: Found, painter: Painter, heading: str = "") -> Markup:
    """The table of one task, under its sources and targets or another heading."""
    words = heading or f"{' + '.join(task.source) or task.name} → {', '.join(task.target)}"
    title = tag("h3", words)
    keys = [str(key) for key in task.arrays.get("keys", ())]
    if not keys:
        return tag("article", title, unfinished(task.name, "samples.npz"))
    late = None if task.scores else unfinished(task.name, "scores.json")
    columns = _columns(task, found)
    label = f"{task.name}: input, generated and true maps"
    body = [tag("tr", _row(columns, painter, r, key)) for r, key in enumerate(keys)]
    shown_rows = [c.row for c in columns for _ in c.values]
    grid = picture_table(label, _head(columns), body, shown_rows)
    legends = [legend_of(c.row, [v for v in c.values.values() if c.row.is_map]) for c in columns]
    shown = scroll(f"Pictures of {task.name}", grid)
    return tag("article", title, late, shown, tag("dl", legends, class_="legends"))


def _columns(task: Generation, found: Found) -> list[_Column]:
    columns = []
    wanted = [(name, ("source",)) for name in task.source]
    wanted += [(name, ("generated", "truth")) for name in task.target]
    for name, ways in wanted:
        row = found.modality(name)
        if row and all(fitting(task.arrays, f"{way}/{name}", row) for way in ways):
            values = {way: task.arrays[f"{way}/{name}"] for way in ways}
            stored = {way: task.arrays.get(f"present/{way}/{name}") for way in ways}
            present = {way: bits for way, bits in stored.items() if bits is not None}
            columns.append(_Column(row, ways == ("source",), values, present))
    return columns


def _head(columns: list[_Column]) -> list[Markup]:
    names = [
        tag(
            "th", c.row.name, title=c.row.title, class_="input" if c.is_source else "pair",
            colspan=len(c.values), scope="colgroup",
        )
        for c in columns
    ]  # fmt: skip
    ways = []
    for c in columns:
        words = ("input",) if c.is_source else ("generated", "truth")
        ways += [tag("th", w, scope="col", class_=k) for w, k in zip(words, _kinds(c), strict=True)]
    return [tag("tr", names), tag("tr", ways)]


def _row(columns: list[_Column], painter: Painter, r: int, key: str) -> list[Markup]:
    cells = []
    for c in columns:
        cells += [
            tag("td", inner, class_=kind if c.row.is_map else f"{kind} text")
            for inner, kind in zip(_inner(c, painter, r, key), _kinds(c), strict=True)
        ]
    return cells


def _inner(c: _Column, painter: Painter, r: int, key: str) -> tuple[Markup, ...]:
    values = [c.value(way, r) for way in c.values]
    if not c.row.is_map:
        return tuple(words_cell(value) for value in values)
    maps = [value if isinstance(value, np.ndarray) else None for value in values]
    if not c.is_source:
        return pair_cells(painter, c.row, maps[0], maps[1], key=key, word="generated")
    if maps[0] is None:
        return (MISSING,)
    return (map_cell(painter, c.row, maps, alt=f"{c.row.name} input", note=key),)


def _kinds(c: _Column) -> tuple[str, ...]:
    return ("input",) if c.is_source else ("first", "second")
