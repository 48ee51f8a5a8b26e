"""Everything the runs were made of: code, versions, seeds, fingerprints, commits, configurations."""

from pipeline.report.collect import Found, TrainingRun, dig
from pipeline.report.html import Markup, absent, details, section, table, tag

_LAUNCH = ".launch"


def provenance_section(found: Found) -> Markup:
    """One table over all runs, then what to open."""
    title = "Provenance"
    runs = [_cells(run) for run in found.runs]
    head = ("Run", "State", "Started", "Code", "Ranks", "Seed", "Committed steps", "Data set")
    shown = table("Training runs", head, runs, text_columns=8) if runs else None
    return section(
        "provenance",
        title,
        shown or absent("No training run has left its records yet."),
        _versions(found.runs),
        _dataset(found),
        [_configuration(run.name, run.config) for run in found.runs],
        [_configuration(f"generate {task.name}", task.config) for task in found.generations],
        [_problems(found.notes)] if found.notes else None,
    )


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
    """Package versions; one list where all runs agree, and who differs where they do not."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        python = run.record.get("python")
        packages = dict(run.record.get("packages") or {})
        for name, version in ({"Python": python} if python else {} | packages).items():
            found.setdefault((name, str(version)), []).append(run.name)
        for name, version in packages.items():
            if run.name not in found.setdefault((name, str(version)), []):
                found[name, str(version)].append(run.name)
    if not found:
        return None
    rows = [
        [name, version, "all runs" if len(users) == len(_recorded(runs)) else ", ".join(users)]
        for (name, version), users in sorted(found.items())
    ]
    return details("Versions", table("As installed when the runs started",
                   ("Package", "Version", "Used by"), rows, text_columns=3))  # fmt: skip
