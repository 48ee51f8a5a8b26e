"""Cells of picture tables: a map with a line below it, words, or the word that nothing is there."""

from collections.abc import Iterable, Sequence

import numpy as np

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.html import Markup, absent, join, tag
from pipeline.report.pictures import Painter
from pipeline.report.scores import picture_score

_TEXT_WIDTH = 1.7
MISSING = tag("span", "missing in this sample", class_="missing")


def map_cell(
    painter: Painter,
    row: Modality,
    maps: Sequence[np.ndarray | None],
    *,
    alt: str,
    note: str = "",
) -> Markup:
    """A picture of the first of `maps`, on a colour stretch that all of them share."""
    from shards.render import render_maps

    shown = [m for m in maps if m is not None]
    picture = painter.image(render_maps(shown, row)[0], f"{alt}. {note}" if note else alt, row)
    return join([picture, tag("small", note) if note else None])


def pair_cells(
    painter: Painter,
    row: Modality,
    guess: np.ndarray | None,
    truth: np.ndarray | None,
    *,
    key: str,
    word: str,
) -> tuple[Markup, Markup]:
    """A map that a model made, with its error, and the true one, with its range of values."""
    made, true = MISSING, MISSING
    if guess is not None:
        note = picture_score(guess, truth, row) if truth is not None else ""
        made = map_cell(painter, row, [guess, truth], alt=f"{row.name} {word}, {key}", note=note)
    if truth is not None:
        note = value_span(truth, row)
        true = map_cell(painter, row, [truth, guess], alt=f"{row.name} truth, {key}", note=note)
    return made, true


def picture_table(
    label: str, head: object, body: object, columns: Iterable[Modality], *, room: float = 0.0
) -> Markup:
    """A table of pictures of one size, which follows from the window's width and the columns.

    `room` is what other columns need, in widths of a picture.
    """
    room += sum(1.0 if row.is_map else _TEXT_WIDTH for row in columns)
    return tag(
        "table", tag("thead", head), tag("tbody", body), class_="pictures", aria_label=label,
        style=f"--columns:{room:.1f}",
    )  # fmt: skip


def words_cell(value: np.ndarray | str | None) -> Markup:
    """A text, a place, or a day."""
    if value is None:
        return MISSING
    if isinstance(value, np.ndarray) and value.ndim:
        value = ", ".join(f"{v:.2f}" for v in value.ravel())
    return tag("span", str(value) or "(empty)", class_="words")


def value_span(value: np.ndarray, row: Modality) -> str:
    """Lowest and highest value of a one-band map that has no fixed colour scale, else nothing."""
    if row.kind != "image" or row.num_bands != 1 or row.display.range:
        return ""
    good = value[np.isfinite(value) & (value != row.nodata)]
    if not good.size:
        return ""
    low, high = float(good.min()), float(good.max())
    between = "–" if low >= 0 else " to "
    return f"{numbers.number(low)}{between}{numbers.with_unit(high, row.unit)}"


def fitting(arrays: dict[str, np.ndarray], name: str, row: Modality) -> bool:
    """Whether a stored array is what its modality's row says: [K, C, H, W], or one value a sample."""
    values = arrays.get(name)
    if values is None:
        return False
    return not row.is_map or (values.ndim == 4 and values.shape[1] == row.num_bands)


def unfinished(name: str, file: str) -> Markup:
    """Says which file of a run is still to come."""
    return absent(f"{name}: unfinished, no {file} yet.")
