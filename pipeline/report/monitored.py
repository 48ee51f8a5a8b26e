"""What was seen of a model while it trained: probes of its features over the steps, its last sheets."""

from pipeline.report import numbers
from pipeline.report.collect import Found, read_generation
from pipeline.report.curves import Line, arm_key, arm_style, chart
from pipeline.report.generated import pictures_of
from pipeline.report.html import Markup, tag
from pipeline.report.pictures import Painter
from pipeline.report.runs import TrainingRun

_SHEETS = 2
_LINES = {
    "linear": "linear classifier",
    "knn": "nearest neighbours",
    "most_frequent": "most frequent class",
}


def monitored(run: TrainingRun, found: Found, painter: Painter) -> list[Markup]:
    """A panel per label and the sheets of the last looks; nothing for a run that nobody looked at."""
    if not run.monitored:
        return []
    labels = dict.fromkeys(
        name.partition("/")[2] for line in run.monitored for name in line["monitor"] if "/" in name
    )
    parts = [tag("h3", "Seen while training")]
    if labels:
        words = (
            "Labels told from frozen features of held-out samples, without the label's own modality"
        )
        panels = [_panel(run, label) for label in labels]
        parts += [tag("p", words), arm_key(_LINES.values()), tag("div", panels, class_="charts")]
    for line in run.monitored[-_SHEETS:]:
        task = read_generation(run.folder / "monitor" / f"step-{line['step']:08d}", found.notes)
        if task.arrays:
            title = f"{' + '.join(task.source)} → {', '.join(task.target)} at step {line['step']:,}"
            parts.append(pictures_of(task, found, painter, title))
    return [*parts, tag("p", _cost(run))]


def _panel(run: TrainingRun, label: str) -> Markup:
    lines = [
        Line(arm_style(number), run.monitor_curve(f"{name}/{label}"))
        for number, name in enumerate(_LINES)
    ]
    last = [
        f"{numbers.percent(line.points[-1][1])} {words}"
        for line, words in zip(lines, _LINES.values(), strict=True)
        if line.points
    ]
    return chart(f"{label}: share told right", ", ".join(last), lines, run.num_steps, log=False)


def _cost(run: TrainingRun) -> str:
    seconds = [value for _, value in run.monitor_curve("seconds")]
    times = numbers.counted(len(seconds), "look")
    return f"{times}, {sum(seconds):,.1f} s in all; the speed of the run is told without them."
