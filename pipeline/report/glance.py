"""The top of the page: what was run, how far it came, and what came out, at a glance."""

import time

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.html import Markup, tag
from pipeline.report.runs import TrainingRun
from pipeline.report.scores import score_rows

SYNTHETIC = "Synthetic data: these numbers say that the pipeline works, nothing about Earth."

_SINGLE = {
    "shards": "A data set of aligned samples.",
    "stage1": "The tokenizer of one modality.",
    "stage2": "A masked multi-modal transformer.",
    "fusion": "A model that fuses modalities late.",
    "multimae": "A multi-modal masked autoencoder.",
    "generate": "Maps generated for held-out samples.",
    "transfer": "A backbone judged on labels.",
}
Fact = tuple[str, str, str]


def header(found: Found) -> Markup:
    """Title, one sentence, the notice about synthetic data, and a row of key numbers."""
    cells = [
        tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", note)))
        for name, value, note in _facts(found)
    ]
    return tag(
        "header",
        tag("p", "Pipeline report, ", time.strftime("%Y-%m-%d %H:%M"), class_="eyebrow"),
        tag("h1", found.title or found.folder.resolve().name),
        tag("p", _SINGLE.get(found.single) or _sentence(found), class_="lead"),
        tag("p", SYNTHETIC, class_="notice", role="note") if found.synthetic else None,
        tag("dl", cells, class_="glance"),
    )


def _sentence(found: Found) -> str:
    parts = []
    if found.dataset:
        samples = numbers.counted(found.dataset.num_samples, "aligned sample")
        parts.append(f"{samples} of {len(found.dataset.modalities)} modalities in tar shards")
    if found.stage1:
        parts.append(numbers.counted(len(found.stage1), "tokenizer"))
    if found.stage2:
        parts.append("a masked transformer over all their tokens")
    if found.multimae:
        parts.append("a masked autoencoder of their pixels")
    if found.generations:
        sources = " and ".join(" + ".join(task.source) or task.name for task in found.generations)
        parts.append(f"other modalities generated from {sources} on held-out samples")
    if found.comparison:
        arms = numbers.counted(len(found.comparison.arms), "tokenizer")
        names = ", ".join(found.comparison.modalities)
        parts.append(f"{arms} side by side on {names}")
    if found.models:
        parts.append(f"{', '.join(found.models.arms)} side by side")
    if not parts:
        return "Nothing has been run here yet."
    return f"{', '.join(parts)}."


def _facts(found: Found) -> list[Fact]:
    facts = [_samples(found)] if found.dataset else []
    if found.comparison:
        facts.append(_compared([r.run for r in found.comparison.runs]))
    if found.models:
        facts.append(_compared([r.run for r in found.models.runs]))
    if found.stage1:
        facts.append(_tokenizers(list(found.stage1.values())))
    if found.stage2:
        facts.append(_transformer(found.stage2))
    if found.generations:
        facts.append(_scores(found))
    seconds = sum(_training_s(run) for run in found.runs)
    if seconds:
        ranks = [int(run.record.get("world_size") or 1) for run in found.runs]
        note = f"in steps, on {numbers.counted(max(ranks), 'rank')}"
        facts.append(("Training time", _clock(seconds), note))
    return facts


def _samples(found: Found) -> Fact:
    assert found.dataset is not None
    splits = found.dataset.manifest["splits"]
    shares = ", ".join(f"{len(found.dataset.select(s)):,} {s}" for s in splits)
    return "Samples", f"{found.dataset.num_samples:,}", shares


def _compared(runs: list[TrainingRun]) -> Fact:
    states = {
        "failed": sum(bool(run.failure) and not run.done for run in runs),
        "unfinished": sum(not run.done and not run.failure for run in runs),
    }
    words = ", ".join(f"{count} {word}" for word, count in states.items() if count)
    return "Runs", f"{sum(run.done for run in runs)} of {len(runs)}", words or "all finished"


def _tokenizers(runs: list[TrainingRun]) -> Fact:
    finished = sum(run.done for run in runs)
    note = "all finished" if finished == len(runs) else f"{len(runs) - finished} unfinished"
    return "Tokenizers", f"{finished} of {len(runs)}", note


def _transformer(run: TrainingRun) -> Fact:
    loss = run.last_eval.get("loss")
    note = f"held-out loss {numbers.number(loss)}" if loss is not None else run.state
    if not run.done:
        note = run.state
    return "Masked transformer", f"{run.step:,} steps", note


def _scores(found: Found) -> Fact:
    rows = score_rows(found)
    unfinished = sum(not task.scores for task in found.generations)
    if unfinished:
        return "Generation", f"{unfinished} unfinished", f"of {len(found.generations)} tasks"
    better = sum(row.better for row in rows)
    return "Better than baseline", f"{better} of {len(rows)}", "scores on held-out samples"


def _training_s(run: TrainingRun) -> float:
    """Time spent in steps, from the speed of each reported stretch."""
    before, total = 0.0, 0.0
    for step, speed in run.curve("samples_per_s"):
        total += (step - before) * run.global_batch / max(speed, 1e-9)
        before = step
    return total


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
