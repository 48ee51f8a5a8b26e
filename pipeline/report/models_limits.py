"""What a comparison of models shows and what it does not: data, budget, seeds, machine."""

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.compared_limits import SHORT_RUN, TRAINING, data_sentence
from pipeline.report.files import dig
from pipeline.report.html import Markup, absent, section, table, tag
from pipeline.report.models import ModelComparison

# What arms should have in common, so that their scores differ by what they are.
_BUDGET = (
    *TRAINING,
    ("masked", "pixels"),
    ("masked", "tokens"),
    ("masked", "targets"),
    ("masked", "masking"),
    ("masked", "num_input_tokens"),
    ("masked", "num_target_tokens"),
    ("masked", "loss"),
)


def models_limits_section(found: Found) -> Markup:
    """Sentences that follow from the files, then a table of the arms."""
    title, models = "What it shows, and what it does not", found.models
    if models is None or not models.runs:
        return section("limits", title, absent("experiment.yaml names no run."))
    texts = [data_sentence(found), _budget(models), _chance(models)]
    texts += [
        "Parameters and time per step are not the same: equal steps are not equal cost.",
        SHORT_RUN,
    ]
    return section("limits", title, tag("ul", [tag("li", t) for t in texts]), _arms(models))


def _chance(models: ModelComparison) -> str:
    return (
        f"{numbers.counted(len(models.seeds), 'seed')} per arm. A seed decides initial weights, masks and "
        "the order of samples; arms of one seed see the same samples in the same order. The tokenizers are "
        "the same for all seeds: what their chance does, the deviations do not show."
    )


def _budget(models: ModelComparison) -> str:
    started = [r for r in models.runs if r.run.config]
    if not started:
        return "No run has started, so nothing is known about budgets."
    different = []
    for path in _BUDGET:
        values: dict[str, list[str]] = {}
        for r in started:
            arms = values.setdefault(str(dig(r.run.config, *path)), [])
            if r.arm not in arms:
                arms.append(r.arm)
        if len(values) > 1:
            # All but those that most arms agree with.
            usual = max(values, key=lambda value: len(values[value]))
            others = [arm for value, arms in values.items() if value != usual for arm in arms]
            different.append(f"{'.'.join(path)} ({', '.join(others)})")
    first = started[0].run
    seen = first.num_steps * first.global_batch
    words = f"{first.num_steps:,} steps of {first.global_batch} samples, {seen:,} in all"
    if different:
        return (
            f"Budget: {words} in {first.name}. Not the same for all arms: {'; '.join(different)}."
        )
    return f"The budget is the same for all arms: {words}, optimizer, streams, masks, loss."


def _arms(models: ModelComparison) -> Markup:
    plan = models.plan.get("arms") or {}
    rows = []
    for arm in models.arms:
        config = next((r.run.config for r in models.of(arm) if r.run.config), {})
        kind = {"stage2": "masked transformer", "fusion": "late fusion"}.get(
            str(config.get("kind")), "–"
        )
        inputs = [
            f"{form} of {', '.join(names)}"
            for form in ("pixels", "tokens")
            if (names := dig(config, "masked", form))
        ]
        changes = ", ".join(str(t) for t in dig(plan, arm, "overrides") or ()) or "nothing"
        rows.append([tag("b", arm), kind, "; ".join(inputs) or "–", tag("code", changes)])
    head = ("Arm", "Model", "Inputs", "Changes")
    return table("The arms, as their runs resolved them", head, rows, words=range(4))
