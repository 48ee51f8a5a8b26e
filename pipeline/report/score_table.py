"""The score table, on the page and in the terminal."""

import sys

from rich.console import Console
from rich.table import Table

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.html import Markup, absent, section, table, tag, terms
from pipeline.report.scores import ScoreRow, score_rows

_TERMINAL_COLUMNS = 120


def score_section(found: Found) -> Markup:
    """Every score beside a trivial baseline and the tokens' ceiling."""
    title, rows = "Scores", score_rows(found)
    if not rows:
        return section("scores", title, absent("No scores yet: no generation has finished."))
    shown = table(
        f"{numbers.counted(max(r.num_samples for r in rows), 'held-out sample')} per task; pixels "
        "without a measurement do not count",
        ("From", "To", "Score", "Generated", "Baseline", "Climatology", "Tokens' ceiling",
         "Against the baseline", "Way to the ceiling", "The baseline is"),
        [_cells(row) for row in rows],
        words=(0, 1, 2, 7, 9),
    )  # fmt: skip
    return section("scores", title, shown, _explanation())


def print_scores(found: Found) -> None:
    """The same to the person at the terminal."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _TERMINAL_COLUMNS
    rows = score_rows(found)
    if not rows:
        console.print("no scores yet: no generation has finished", markup=False)
        return
    shown = Table(title="synthetic data" if found.synthetic else None, title_justify="left")
    ways = ("model", "baseline", "climatology", "tokens")
    for name in ("from", "to", "metric", *ways, "better?"):
        right = name in ways
        shown.add_column(name, justify="right" if right else "left", no_wrap=name != "from")
    for row in rows:
        values = (row.model, row.baseline, row.climatology, row.tokens)
        unit = f" ({row.unit})" if row.unit else ""
        cells = (numbers.score(row.metric, value) for value in values)
        shown.add_row(row.source, row.target, _metric(row) + unit, *cells, row.verdict)
    console.print(shown, markup=False)


def _cells(row: ScoreRow) -> list[object]:
    model, baseline, climatology, tokens = (
        numbers.score(row.metric, value)
        for value in (row.model, row.baseline, row.climatology, row.tokens)
    )
    unit = tag("small", f", {row.unit}") if row.unit else None
    mark = tag("span", "▲" if row.better else "▽", aria_hidden="true")
    verdict = tag("span", mark, " ", row.verdict, class_="better" if row.better else "worse")
    line = tag("span", row.baseline_name, class_="line")
    return [row.source, tag("b", row.target), [_metric(row), unit], tag("b", model), baseline,
            climatology, tokens, verdict, _way(row), line]  # fmt: skip


def _metric(row: ScoreRow) -> str:
    return numbers.METRIC_TITLES.get(row.metric, row.metric)


def _way(row: ScoreRow) -> Markup:
    if row.way is None:
        return tag("span", "n/a")
    width = 100 * min(1.0, max(0.0, row.way))
    bar = tag("span", tag("span", style=f"width:{width:.0f}%"), class_="bar", aria_hidden="true")
    return tag("span", bar, f"{numbers.signed(100 * row.way, '.0f')} %", class_="way")


def _explanation() -> Markup:
    return terms({
        "Generated": "from the input modality alone. RMSE and MAE, in the target's unit: smaller is "
        "better. Accuracy and mIoU (over the classes that occur in the truth): larger is better.",
        "Baseline": "the same guess everywhere: the training mean, or the most frequent training class.",
        "Climatology": "of the training samples nearest in place and season, the mean or the most "
        "frequent class: what a map and a calendar know.",
        "Tokens' ceiling": "the truth after a trip through its own tokens; no generation can be "
        "expected to do better.",
        "Way to the ceiling": "0 % is the baseline, 100 % the tokens' ceiling.",
    })  # fmt: skip
