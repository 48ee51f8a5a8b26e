"""Curves of all training runs, as small multiples."""

import math

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.curves import Line, chart, key
from pipeline.report.files import dig
from pipeline.report.html import Markup, absent, section, table, tag
from pipeline.report.monitored import monitored
from pipeline.report.pictures import Painter
from pipeline.report.runs import TrainingRun
from pipeline.report.tokenizers import vocab_size


def stage2_section(found: Found, painter: Painter) -> Markup:
    """Loss of the masked transformer, its cross-entropy per target, what was seen while it trained."""
    title, run = "Stage 2: masked transformer", found.stage2
    if run is None:
        return section("stage2", title, absent("No masked transformer: stage2/ is missing."))
    if not run.train:
        return section("stage2", title, absent(f"stage2: {run.state}, no metrics.jsonl yet."))
    late = None if run.done else tag("p", run.state, class_="state")
    rest = [
        _other(run, "grad_norm", "Gradient norm"),
        _other(run, "lr", "Learning rate"),
        _other(run, "samples_per_s", "Samples per second"),
    ]
    targets = _targets(run)
    panels = [_cross_entropy(run, name, _vocabulary(found, name)) for name in targets]
    return section(
        "stage2",
        title,
        late,
        key("train", "eval", "level"),
        tag("div", _loss(run, "Loss, mean over targets"), rest, class_="charts"),
        tag("h3", "Cross-entropy of masked tokens per target modality, nats per token"),
        tag("div", panels, class_="charts"),
        _table(found, run, targets),
        monitored(run, found, painter),
    )


def curves_section(found: Found) -> Markup:
    """One panel per tokenizer."""
    title = "Stage 1: loss curves"
    runs = {name: run for name, run in found.stage1.items() if run.train}
    if not runs:
        return section("curves", title, absent("No tokenizer has left metrics.jsonl yet."))
    panels = [
        _loss(run, name if run.done else f"{name} ({run.state})") for name, run in runs.items()
    ]
    return section("curves", title, key("train", "eval"), tag("div", panels, class_="charts"))


def _loss(run: TrainingRun, title: str) -> Markup:
    lines = [Line("train", run.curve("loss")), Line("eval", run.eval_curve("loss"))]
    return chart(title, _last(lines), lines, run.num_steps)


def _other(run: TrainingRun, name: str, title: str) -> Markup:
    points = run.curve(name)
    note = f"{numbers.number(points[-1][1])} at the end" if points else ""
    return chart(title, note, [Line("train", points)], run.num_steps, log=False)


def _cross_entropy(run: TrainingRun, name: str, vocabulary: int | None) -> Markup:
    lines = [Line("train", run.curve(f"ce/{name}")), Line("eval", run.eval_curve(f"ce/{name}"))]
    note = _last(lines)
    if vocabulary:
        lines.append(Line("level", [(0, math.log(vocabulary))]))
    return chart(name, note, lines, run.num_steps)


def _last(lines: list[Line]) -> str:
    words = {"train": "training", "eval": "held-out"}
    found = [(line.points[-1][1], words[line.style]) for line in lines if line.points]
    return ", ".join(f"{numbers.number(value)} {word}" for value, word in found)


def _targets(run: TrainingRun) -> list[str]:
    """Targets the configuration names, and any other that left a curve."""
    named = list(dig(run.config, "masked", "targets") or [])
    seen = [k[3:] for line in run.train for k in line if k.startswith("ce/")]
    return list(dict.fromkeys((*named, *seen)))


def _vocabulary(found: Found, name: str) -> int | None:
    """As the tokens beside the pixels say, else as the tokenizer's configuration does."""
    extra = f"tok_{name}"
    if found.dataset and extra in found.dataset.extras:
        return dig(found.dataset.extra_manifest(extra), "info", "vocab_size")
    tokenizer = found.stage1.get(name)
    return vocab_size(tokenizer) if tokenizer else None


def _table(found: Found, run: TrainingRun, targets: list[str]) -> Markup | None:
    values = run.last_eval
    if not values:
        return absent("stage2: not evaluated on held-out samples yet.")
    rows = []
    for name in targets:
        vocabulary = _vocabulary(found, name)
        rows.append(
            [
                tag("b", name),
                numbers.number(values[f"ce/{name}"]) if f"ce/{name}" in values else "–",
                numbers.number(math.log(vocabulary)) if vocabulary else "–",
                numbers.percent(values[f"accuracy/{name}"])
                if f"accuracy/{name}" in values
                else "–",
                numbers.number(vocabulary) if vocabulary else "–",
            ]
        )
    head = ("Target", "Cross-entropy", "Uniform guess", "Tokens right", "Vocabulary")
    return table("Masked tokens of held-out samples, at the last evaluation", head, rows)
