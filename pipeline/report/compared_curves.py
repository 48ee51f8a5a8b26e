"""Tokenizers side by side over their steps: a line per arm, the mean over its seeds, and their spread."""

from collections.abc import Callable, Mapping, Sequence

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.compared import scores_of
from pipeline.report.comparison import Comparison, spread_of
from pipeline.report.curves import Line, Points, arm_key, arm_style, chart
from pipeline.report.html import Markup, absent, section, tag
from pipeline.report.runs import TrainingRun

Curve = Callable[[TrainingRun], Points]


def compared_curves_section(found: Found) -> Markup:
    """Loss, held-out scores, perplexity and gradient norm of every modality."""
    title, comparison = "Curves", found.comparison
    if comparison is None or not any(r.run.train for r in comparison.runs):
        return section("curves", title, absent("No run has left metrics.jsonl yet."))
    lead = (
        "A line is the mean over seeds, the area around it one standard deviation. Training losses are "
        "comparable between arms of the same decoder only: a critic's opinion and the error of a "
        "predicted image are other quantities than the error of a reconstruction."
    )
    groups = [_group(comparison, found.modality(name)) for name in comparison.modalities]
    return section("curves", title, tag("p", lead, class_="lead"), groups)


def _group(comparison: Comparison, row: Modality | None) -> list[Markup]:
    assert row is not None
    panels = [_panel(comparison, row, "Training loss", lambda run: run.curve("loss"))]
    for metric in (*scores_of(row), "perplexity"):
        # `metric` is bound now: the loop goes on before the panel reads it.
        panels.append(
            _panel(
                comparison,
                row,
                _panel_title(metric, row),
                lambda run, metric=metric: run.eval_curve(metric),
                log=metric == "perplexity",
            )
        )
    panels.append(_panel(comparison, row, "Gradient norm", lambda run: run.curve("grad_norm")))
    charts = tag("div", [p for p in panels if p], class_="charts")
    return [tag("h3", row.name), arm_key(comparison.arms), charts]


def _panel_title(metric: str, row: Modality) -> str:
    if metric == "perplexity":
        return "Held-out perplexity"
    unit = numbers.short_unit(row.unit) if metric in ("mae", "rmse") else ""
    title = f"Held-out {numbers.METRIC_TITLES[metric]}"
    return f"{title}, {unit}" if unit else title


def _panel(
    comparison: Comparison, row: Modality, title: str, curve: Curve, *, log: bool = True
) -> Markup | None:
    runs = {arm: [r.run for r in comparison.of(row.name, arm)] for arm in comparison.arms}
    return arms_panel(runs, title, curve, log=log)


def arms_panel(
    runs: Mapping[str, Sequence[TrainingRun]], title: str, curve: Curve, *, log: bool = True
) -> Markup | None:
    """One chart, a line per arm over its seeds; None where no run has the curve."""
    lines = {
        arm: mean_line(arm_style(i), [curve(run) for run in seeds])
        for i, (arm, seeds) in enumerate(runs.items())
    }
    ends = [
        f"{arm} {numbers.number(line.points[-1][1])}" for arm, line in lines.items() if line.points
    ]
    if not ends:
        return None
    num_steps = max(run.num_steps for seeds in runs.values() for run in seeds)
    drawn = list(lines.values())
    return chart(title, "", drawn, num_steps, log=log, spoken=f"at the end: {', '.join(ends)}")


def mean_line(style: str, curves: list[Points]) -> Line:
    """Mean and deviation over the seeds that have a step."""
    by_step: dict[float, list[float]] = {}
    for points in curves:
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    points, band = [], []
    for step, values in sorted(by_step.items()):
        mean, deviation = spread_of(values)
        points.append((step, mean))
        if deviation is not None:
            band.append((step, mean - deviation, mean + deviation))
    return Line(style, points, tuple(band))
