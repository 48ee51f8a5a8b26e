"""Models side by side in numbers: overall, per target and input set, probes; on page and terminal."""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.comparison import spread_of
from pipeline.report.html import Markup, absent, details, join, section, table, tag, terms
from pipeline.report.models import ALL, ModelComparison, ModelRun

_CLASSIFIERS = {"linear": "linear", "knn": "nearest neighbours"}
_WAYS = {"model": "", "untrained": ", untrained"}
Get = Callable[[ModelRun], float | None]


def models_section(found: Found) -> Markup:
    """What each arm reaches with all inputs, without one, with one alone; and what it costs."""
    title, models = "Scores", found.models
    if models is None or not models.runs:
        return section("models", title, absent("experiment.yaml names no run."))
    lead = (
        "Every token of a target of held-out samples, the target itself never given. Means over "
        f"{numbers.counted(len(models.seeds), 'seed')}"
        f"{', with standard deviations' if len(models.seeds) > 1 else ', which says nothing about chance'}. "
        f"Targets in these means: {', '.join(models.common_targets) or 'none yet'}."
    )
    columns = _overall(models)
    rows = [
        [
            _arm(arm),
            _state(models, arm),
            *(_cell(models, arm, get, what) for _, what, get in columns),
        ]
        for arm in models.arms
    ]
    head = ("Arm", "Runs", *(name for name, *_ in columns))
    prior = [_prior_mean(models, what) for what in ("ce", "accuracy")]
    rows.append(["how often a code occurs", "–", *prior, *["–"] * (len(columns) - 2)])
    shown = table("Mean over targets", head, rows, words=(0, 1))
    return section(
        "models", title, tag("p", lead, class_="lead"), shown, _late(models), _per_target(models),
        _explanation(),
    )  # fmt: skip


def missing_section(found: Found) -> Markup:
    """Cross-entropy and accuracy per target without each input and with each alone."""
    title, models = "With inputs missing", found.models
    if models is None or not models.sets("without"):
        return section(
            "missing", title, absent("No model of several inputs has been evaluated yet.")
        )
    parts: list[Markup] = []
    for kind, words in (
        ("without", "each modality missing"),
        ("alone", "each modality given alone"),
    ):
        sets = models.sets(kind)
        names = [name.partition("/")[2] for name in sets]
        rows = [
            [_arm(a), *(_cell(models, a, _rise_get(models, [name]), "rise") for name in sets)]
            for a in models.arms
        ]
        caption = f"Rise of the cross-entropy with {words}, mean over targets"
        parts.append(table(caption, ("Arm", *names), rows))
        head = ("Arm", "all given", *names)
        opened = [_of_target(models, target, sets, head) for target in models.targets]
        parts.append(details(f"Cross-entropy and tokens right per target, {words}", opened))
    lead = (
        "A rise is over what the same targets cost with everything given; a modality is no target of the "
        "column about it."
    )
    return section("missing", title, tag("p", lead, class_="lead"), parts)


def probes_section(found: Found) -> Markup:
    """Classifiers on frozen features."""
    title, models = "Probes", found.models
    if models is None or not models.labels:
        return section("probes", title, absent("No probe has been evaluated yet."))
    parts = []
    for label in models.labels:
        first = next(r.scores["probes"][label] for r in models.runs if label in _probes(r))
        given = [s for s in first["model"] if s != ALL] or _sets_of(models, label)
        head = ("Features of", "all given", *(f"no {s.partition('/')[2]}" for s in given))
        for classifier, words in _CLASSIFIERS.items():
            rows: list[Sequence[object]] = [
                [
                    join([_arm(arm), suffix]),
                    *(
                        _cell(models, arm, _probe_get(label, way, s, classifier), "accuracy")
                        for s in (ALL, *given)
                    ),
                ]
                for arm in models.arms
                for way, suffix in _WAYS.items()
            ]
            share = numbers.percent(first.get("most_frequent"))
            rows.append(["most frequent class", share, *["–"] * len(given)])
            caption = f"{label}, {len(first['classes'])} classes: accuracy, {words}"
            parts.append(table(caption, head, rows))
    lead = (
        "Frozen features of held-out samples, classified after training samples; the label's own modality "
        "is never given. Beside each arm the same model with untrained weights."
    )
    return section("probes", title, tag("p", lead, class_="lead"), parts)


def print_models(found: Found) -> None:
    """The means to the person at the terminal."""
    models = found.models
    assert models is not None
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 120
    shown = Table(title=f"Models{' (synthetic data)' if found.synthetic else ''}")
    shown.add_column("arm", no_wrap=True)
    shown.add_column("runs", no_wrap=True)
    columns = _overall(models)
    for name, *_ in columns:
        shown.add_column(name, justify="right")
    for arm in models.arms:
        texts = [_text(models.values(arm, get), what) for _, what, get in columns]
        shown.add_row(arm, _state(models, arm), *texts)
    console.print(shown, markup=False)


def _overall(models: ModelComparison) -> list[tuple[str, str, Get]]:
    """Columns: title, what kind of number, and where it comes from."""
    targets = models.common_targets
    without, alone = models.sets("without"), models.sets("alone")
    return [
        ("Cross-entropy, all", "ce", lambda r: r.mean(targets, "ce")),
        ("Tokens right, all", "accuracy", lambda r: r.mean(targets, "accuracy")),
        ("Rise, one missing", "rise", _rise_get(models, without)),
        ("Rise, one alone", "rise", _rise_get(models, alone)),
        ("Parameters, M", "parameters", lambda r: r.parameters),
        ("Steps/s", "speed", lambda r: r.steps_per_s),
    ]


def _rise_get(models: ModelComparison, sets: list[str]) -> Get:
    targets = models.common_targets
    return lambda r: r.rise(sets, targets)


def _probe_get(label: str, way: str, given: str, classifier: str) -> Get:
    return lambda r: r.probe(label, way, given, classifier)


def _token_get(given: str, target: str, what: str) -> Get:
    return lambda r: r.token(given, target, what)


def _per_target(models: ModelComparison) -> list[Markup]:
    """All inputs: a column per target."""
    parts = []
    for what, title in (("ce", "Cross-entropy"), ("accuracy", "Tokens right")):
        rows: list[Sequence[object]] = [
            [_arm(a), *(_cell(models, a, _token_get(ALL, t, what), what) for t in models.targets)]
            for a in models.arms
        ]
        guesses = [models.prior(t, what) for t in models.targets]
        rows.append(["how often a code occurs", *(_value(g, what) for g in guesses)])
        caption = f"{title} per target, all other modalities given"
        parts.append(table(caption, ("Arm", *models.targets), rows))
    return parts


def _of_target(
    models: ModelComparison, target: str, sets: list[str], head: Sequence[str]
) -> list[Markup]:
    parts = []
    for what, title in (("ce", "cross-entropy"), ("accuracy", "tokens right")):
        rows = [
            [
                _arm(arm),
                *(
                    "–" if name.partition("/")[2] == target
                    else _cell(models, arm, _token_get(name, target, what), what)
                    for name in (ALL, *sets)
                ),
            ]
            for arm in models.arms
        ]  # fmt: skip
        parts.append(table(f"{target}: {title}", head, rows))
    return parts


def _cell(models: ModelComparison, arm: str, get: Get, what: str) -> object:
    mean, spread = _told(models.values(arm, get), what)
    return join([mean, tag("span", spread, class_="spread")]) if spread else mean


def _text(values: list[float], what: str) -> str:
    return "".join(_told(values, what))


def _told(values: list[float], what: str) -> tuple[str, str]:
    """The mean and, of several, how far they are apart."""
    if not values:
        return "–", ""
    mean, deviation = spread_of(values)
    shown = _value(mean, what)
    if deviation is None or what == "parameters":
        return shown, ""
    return shown, f" ± {_deviation(deviation, shown, what)}"


def _deviation(deviation: float, shown: str, what: str) -> str:
    """As many decimals as the mean is shown with."""
    decimals = len(shown.removesuffix(" %").partition(".")[2])
    return f"{100 * deviation if what == 'accuracy' else deviation:,.{decimals}f}"


def _value(value: float | None, what: str) -> str:
    if value is None:
        return "–"
    if what == "rise":
        return numbers.signed(value, "+.3f")
    return numbers.percent(value) if what == "accuracy" else numbers.number(value)


def _prior_mean(models: ModelComparison, what: str) -> str:
    found = [models.prior(t, what) for t in models.common_targets]
    known = [value for value in found if value is not None]
    return _value(sum(known) / len(known) if known else None, what)


def _sets_of(models: ModelComparison, label: str) -> list[str]:
    """Input sets of a probe, from the run that has the most of them."""
    sets = [
        [s for s in _probes(r)[label]["model"] if s != ALL]
        for r in models.runs
        if label in _probes(r)
    ]
    return max(sets, key=len)


def _probes(run: ModelRun) -> dict:
    return run.scores.get("probes") or {}


def _arm(name: str) -> Markup:
    return tag("b", name, class_="line")


def _state(models: ModelComparison, arm: str) -> str:
    runs = models.of(arm)
    done = sum(bool(r.scores) for r in runs)
    failed = sum(bool(r.run.failure) and not r.run.done for r in runs)
    words = f"{done} of {len(runs)}"
    return f"{words}, {failed} failed" if failed else words


def _late(models: ModelComparison) -> Markup | None:
    late = [r for r in models.runs if not r.scores]
    if not late:
        return None
    items = [
        tag("li", f"{r.run.name}: {'not evaluated' if r.run.done else r.run.state}") for r in late
    ]
    words = f"{numbers.counted(len(late), 'run')} not in these numbers:"
    return tag("div", tag("p", words), tag("ul", items), class_="absent")


def _explanation() -> Markup:
    return terms({
        "Cross-entropy": "nats per token; lower is better.",
        "All": "all modalities but the target, as many tokens of them as the budget has room for.",
        "Rise": "of the cross-entropy over what the same targets cost with everything given; mean over the "
        "modalities that are left out, or given by themselves.",
        "How often a code occurs": "the trivial guess: frequencies in the training samples, no input at all.",
        "Runs": "evaluated of planned; only these are in the numbers.",
        "Steps/s": "median over the run; comparable where arms ran on one machine under one load.",
    })  # fmt: skip
