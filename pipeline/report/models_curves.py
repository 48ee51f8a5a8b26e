"""Models side by side over their steps: a line per arm, the mean over its seeds, and their spread."""

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.compared_curves import Curve, arms_panel
from pipeline.report.curves import arm_key
from pipeline.report.html import Markup, absent, section, tag
from pipeline.report.models import ModelComparison


def models_curves_section(found: Found) -> Markup:
    """Loss, held-out cross-entropy by the number of inputs and per target, gradient norm."""
    title, models = "Curves", found.models
    if models is None or not any(r.run.train for r in models.runs):
        return section("curves", title, absent("No run has left metrics.jsonl yet."))
    lead = (
        "A line is the mean over seeds, the area around it one standard deviation. Held-out samples have "
        "fixed masks; those that see one modality, two, or more are shown apart."
    )
    general = [
        _panel(models, "Training loss", lambda run: run.curve("loss")),
        _panel(models, "Held-out loss", lambda run: run.eval_curve("loss")),
        *(_panel(models, *_by_inputs(models, n)) for n in _counts(models)),
        _panel(models, "Gradient norm", lambda run: run.curve("grad_norm")),
    ]
    targets = [
        _panel(models, f"Held-out, {name}", _cross_entropy(name)) for name in _targets(models)
    ]
    return section(
        "curves", title, tag("p", lead, class_="lead"), arm_key(models.arms),
        tag("div", [p for p in general if p], class_="charts"),
        tag("h3", "Cross-entropy of masked tokens per target modality, nats per token"),
        tag("div", [p for p in targets if p], class_="charts"),
    )  # fmt: skip


def _panel(models: ModelComparison, title: str, curve: Curve) -> Markup | None:
    runs = {arm: [r.run for r in models.of(arm)] for arm in models.arms}
    return arms_panel(runs, title, curve)


def _by_inputs(models: ModelComparison, count: int) -> tuple[str, Curve]:
    more = " or more" if count == _counts(models)[-1] and count > 1 else ""
    words = f"{numbers.counted(count, 'modality').replace('modalitys', 'modalities')}{more}"
    return f"Held-out, seeing {words}", lambda run: run.eval_curve(f"inputs/{count}/ce")


def _cross_entropy(name: str) -> Curve:
    return lambda run: run.eval_curve(f"ce/{name}")


def _targets(models: ModelComparison) -> list[str]:
    keys = dict.fromkeys(k for r in models.runs for line in r.run.evals for k in line["eval"])
    return [k[3:] for k in keys if k.startswith("ce/")]


def _counts(models: ModelComparison) -> list[int]:
    """How many modalities held-out samples see, in any run."""
    keys = {k for r in models.runs for line in r.run.evals for k in line["eval"]}
    return sorted(
        int(k.split("/")[1]) for k in keys if k.startswith("inputs/") and k.endswith("/ce")
    )
