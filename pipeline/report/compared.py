"""Tokenizers side by side in numbers: a table per modality, on the page and in the terminal."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.comparison import Comparison, spread_of
from pipeline.report.files import Record
from pipeline.report.html import Markup, absent, join, section, table, tag, terms

_IMAGE = ("mae", "rmse", "psnr", "ssim", "angle_deg")
_CLASSES = ("accuracy", "miou")
_CODES = {"codes_used": "Codes used", "perplexity": "Perplexity"}
# Of these, one is no better than another.
_TRAINING = {
    "steps_per_s": "Steps/s",
    "parameters": "Parameters, M",
    "critic": "Critic, M",
    "grad_median": "Gradient norm",
    "grad_largest": "Largest over it",
}
_TERMINAL_COLUMNS = 120


def scores_of(row: Modality) -> tuple[str, ...]:
    """The scores of a modality's reconstructions."""
    return _CLASSES if row.kind == "classes" else _IMAGE


def compared_section(found: Found) -> Markup:
    """One table per modality, and every run that is not in its numbers."""
    title, comparison = "Scores", found.comparison
    if comparison is None or not comparison.runs:
        return section("compared", title, absent("experiment.yaml names no run."))
    parts = []
    for name in comparison.modalities:
        row = found.modality(name)
        assert row is not None
        parts.append(tag("h3", row.name, " ", tag("small", row.title)))
        parts += _tables(comparison, row)
        parts.append(_not_finished(comparison, name))
    lead = (
        f"Held-out windows after a trip through their tokens: mean over {_seeds(comparison)} "
        f"{'and standard deviation' if len(comparison.seeds) > 1 else '(one says nothing about chance)'}. "
        "Where two arms lie within each other's deviation, these runs do not tell them apart."
    )
    return section("compared", title, tag("p", lead, class_="lead"), parts, _explanation())


def print_comparison(found: Found) -> None:
    """The mean scores to the person at the terminal."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _TERMINAL_COLUMNS
    comparison = found.comparison
    assert comparison is not None
    for name in comparison.modalities:
        row = found.modality(name)
        assert row is not None
        cells = _cells(comparison, row)
        metrics = _known((*scores_of(row), "codes_used"), cells)
        shown = Table(title=f"{name}{' (synthetic data)' if found.synthetic else ''}")
        shown.add_column("arm", no_wrap=True)
        for metric in metrics:
            shown.add_column(_title(metric, row), justify="right", no_wrap=True)
        shown.add_column("runs", no_wrap=True)
        for arm in comparison.arms:
            means = [numbers.score(m, cells[arm, m].mean) for m in metrics]
            shown.add_row(arm, *means, _state(comparison, name, arm))
        for baseline in comparison.baselines(name):
            scores = [_baseline_score(baseline, m) for m in metrics]
            shown.add_row(_baseline_name(baseline), *scores, _grid(baseline))
        console.print(shown, markup=False)


@dataclass(frozen=True)
class _Cell:
    """One number of one arm: mean and deviation over the seeds that have it."""

    metric: str
    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, comparison: Comparison, modality: str, arm: str, metric: str) -> "_Cell":
        values = comparison.values(modality, arm, metric)
        return cls(metric, *spread_of(values)) if values else cls(metric, None, None)


def _cells(comparison: Comparison, row: Modality) -> dict[tuple[str, str], _Cell]:
    return {
        (arm, metric): _Cell.of(comparison, row.name, arm, metric)
        for arm in comparison.arms
        for metric in (*scores_of(row), *_CODES, *_TRAINING)
    }


def _tables(comparison: Comparison, row: Modality) -> list[Markup]:
    cells = _cells(comparison, row)
    arms = comparison.arms
    metrics = _known((*scores_of(row), *_CODES), cells) or [*scores_of(row)]
    best = [_best([cells[arm, m] for arm in arms]) for m in metrics if m in scores_of(row)]
    rows: list[Sequence[object]] = [
        [
            _arm(arm),
            _state(comparison, row.name, arm),
            *(_shown(cells[arm, m], is_best=cells[arm, m] in best) for m in metrics),
        ]
        for arm in arms
    ]
    for baseline in comparison.baselines(row.name):
        scores = [_baseline_score(baseline, m) for m in metrics]
        rows.append([_baseline_name(baseline), _grid(baseline), *scores])
    head = ("Arm", "Runs", *(_title(metric, row) for metric in metrics))
    caption = f"{row.name}: reconstruction of held-out windows at the last evaluation"
    shown = [table(caption, head, rows, words=(0, 1))]
    if about := _known(tuple(_TRAINING), cells):
        body = [[_arm(arm), *(_shown(cells[arm, m]) for m in about)] for arm in arms]
        head = ("Arm", *(_title(metric, row) for metric in about))
        shown.append(table(f"{row.name}: how it trained", head, body))
    return shown


def _known(metrics: tuple[str, ...], cells: dict[tuple[str, str], _Cell]) -> list[str]:
    """Those that any arm has a number of."""
    known = {metric for (_, metric), cell in cells.items() if cell.mean is not None}
    return [metric for metric in metrics if metric in known]


def _arm(name: str) -> Markup:
    return tag("b", name, class_="line")


def _best(cells: list[_Cell]) -> _Cell | None:
    """The cell with the best mean, where there are several to choose from."""
    known = [(cell.mean, cell) for cell in cells if cell.mean is not None]
    if len(known) < 2:
        return None
    sign = -1 if known[0][1].metric in numbers.HIGHER_IS_BETTER else 1
    return min(known, key=lambda pair: sign * pair[0])[1]


def _shown(cell: _Cell, *, is_best: bool = False) -> object:
    if cell.mean is None:
        return "–"
    value = numbers.score(cell.metric, cell.mean)
    mark = tag("small", " best") if is_best else None
    return join([tag("b", value) if is_best else value, mark, _deviation(cell, value)])


def _deviation(cell: _Cell, value: str) -> Markup | None:
    """As many decimals as the mean is shown with."""
    if cell.deviation is None or cell.metric in ("parameters", "critic"):
        return None
    scale = 100 if cell.metric in numbers.SHARES else 1
    decimals = len(value.removesuffix(" %").partition(".")[2])
    return tag("span", f" ± {scale * cell.deviation:,.{decimals}f}", class_="spread")


def _title(metric: str, row: Modality) -> str:
    title = (_CODES | _TRAINING).get(metric) or numbers.METRIC_TITLES[metric]
    unit = numbers.short_unit(row.unit) if metric in ("mae", "rmse") else ""
    return f"{title}, {unit}" if unit else title


def _baseline_name(baseline: Record) -> str:
    return f"resampling, {math.floor(baseline['bits'] / 8):,} bytes"


def _baseline_score(baseline: Record, metric: str) -> str:
    scores = baseline.get("scores") or {}
    return numbers.score(metric, scores[metric]) if metric in scores else "–"


def _grid(baseline: Record) -> str:
    cells = baseline.get("cells")
    return f"{cells} × {cells} cells" if cells else "not one cell fits"


def _state(comparison: Comparison, modality: str, arm: str) -> str:
    runs = [r.run for r in comparison.of(modality, arm)]
    done = sum(run.done for run in runs)
    failed = sum(bool(run.failure) and not run.done for run in runs)
    words = f"{done} of {len(runs)}"
    return f"{words}, {failed} failed" if failed else words


def _not_finished(comparison: Comparison, modality: str) -> Markup | None:
    late = [r.run for r in comparison.of(modality) if not r.run.done]
    if not late:
        return None
    items = [tag("li", f"{run.name}: {run.state}") for run in late]
    words = f"{numbers.counted(len(late), 'run')} not in these numbers:"
    return tag("div", tag("p", words), tag("ul", items), class_="absent")


def _seeds(comparison: Comparison) -> str:
    return numbers.counted(len(comparison.seeds), "seed")


def _explanation() -> Markup:
    return terms({
        "Best": "of the arms, by the mean over seeds.",
        "MAE, RMSE": "over all bands and pixels that carry a measurement, in the modality's unit.",
        "PSNR, SSIM": "larger is better; relative to the range a band is shown in, or 4 deviations.",
        "Angle": "between the spectra of a pixel before and after.",
        "Codes used": "share of the vocabulary that occurs in the held-out windows.",
        "Perplexity": "how many equally likely codes would be as varied.",
        "Steps/s": "median over the run; comparable where arms ran on one machine under one load.",
        "Parameters": "of the tokenizer, learned by gradients (a VQ codebook is not); the critic is left "
        "behind after training.",
        "Gradient norm": "median over the logged steps after the first tenth; beside it the largest of "
        "them over that median: 1 is steady, large is a spike.",
        "Resampling": "no tokenizer: area average (classes: majority) on the largest grid that takes no "
        "more bytes than a window's tokens at log2(vocabulary) bits each, and up again (bicubic, nearest).",
        "Runs": "finished of planned; only finished ones are in the numbers.",
    })  # fmt: skip
