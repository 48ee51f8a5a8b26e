"""Everything the runs were made of: code, versions, seeds, fingerprints, commits, configurations."""

import yaml

from pipeline.report.collect import Found
from pipeline.report.files import Record, dig
from pipeline.report.html import Markup, absent, details, scroll, section, table, tag
from pipeline.report.runs import TrainingRun


def provenance_section(found: Found) -> Markup:
    """One table over all runs, then what to open."""
    title, compared = "Provenance", found.comparison or found.models
    runs = [_cells(run) for run in found.runs]
    head = ("Run", "State", "Started", "Code", "Ranks", "Seed", "Committed steps", "Data set")
    shown = table("Training runs", head, runs, words=range(8)) if runs else None
    return section(
        "provenance",
        title,
        shown or absent("No training run has left its records yet."),
        _versions(found.runs),
        _dataset(found),
        tag("h3", "Resolved configurations"),
        [_configuration("The comparison", compared.plan)] if compared else None,
        [_configuration(run.name, run.config) for run in _told(found)],
        [_configuration(f"generate {task.name}", task.config) for task in found.generations],
        [_problems(found.notes)] if found.notes else None,
    )


def _told(found: Found) -> list[TrainingRun]:
    """Whose configurations are shown: all, but of a comparison's seeds, which are alike, the first."""
    if found.models is not None:
        heads = {m.arm: m.run for m in reversed(found.models.runs)}
        return [*found.stage1.values(), *reversed(heads.values())]
    if found.comparison is None:
        return found.runs
    first = {(r.modality, r.arm): r.run for r in reversed(found.comparison.runs)}
    return list(reversed(first.values()))


def _cells(run: TrainingRun) -> list[object]:
    return [
        tag("b", run.name),
        run.state,
        _or_dash(run.record.get("started")),
        _code(run.record.get("code")),
        _or_dash(run.record.get("world_size")),
        _or_dash(dig(run.config, "engine", "seed")),
        ", ".join(f"{step:,}" for step in run.commits) or "–",
        _code(dig(run.record, "dataset", "fingerprint")),
    ]


def _versions(runs: list[TrainingRun]) -> Markup | None:
    """Package versions, and which runs had them: all, or those that are named."""
    recorded = [run for run in runs if run.record]
    users: dict[tuple[str, str], list[str]] = {}
    for run in recorded:
        packages = {"Python": run.record.get("python"), **(run.record.get("packages") or {})}
        for name, version in packages.items():
            users.setdefault((name, str(version)), []).append(run.name)
    if not users:
        return None
    rows = [
        [name, version, "all runs" if len(names) == len(recorded) else ", ".join(names)]
        for (name, version), names in users.items()
    ]
    head = ("Package", "Version", "Used by")
    shown = table("As installed when the runs started", head, rows, words=range(3))
    return details("Versions", shown)


def _dataset(found: Found) -> Markup | None:
    if found.dataset is None:
        return None
    manifest = found.dataset.manifest
    listed = {
        "fingerprint": found.dataset.fingerprint,
        "plan": manifest.get("plan"),
        "source": manifest.get("source"),
        "recipe": manifest.get("recipe"),
        "libraries": manifest.get("libraries"),
        "extras": {name: _extra(found, name) for name in found.dataset.extras},
    }
    return details("Data set: fingerprint, source, recipe, tokens", _yaml(listed))


def _extra(found: Found, name: str) -> object:
    assert found.dataset is not None
    return found.dataset.extra_manifest(name).get("info")


def _configuration(name: str, config: Record) -> Markup:
    if not config:
        return absent(f"{name}: no config.yaml.")
    return details(name, _yaml(config))


def _problems(notes: list[str]) -> Markup:
    shown = tag("ul", [tag("li", note) for note in dict.fromkeys(notes)])
    return tag("div", tag("h3", "What could not be read"), shown, class_="absent")


def _yaml(values: object) -> Markup:
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return scroll("YAML", tag("pre", text))


def _code(value: object) -> object:
    return tag("code", str(value)) if value else "–"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
