"""What `doctor` found, as a table or as JSON."""

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from pipeline.inspection.doctor import Finding, examine

_STYLES = {"fine": "green", "warning": "yellow", "failure": "bold red"}


def diagnose(out: Path, shards: str, *, as_json: bool) -> bool:
    """Print every finding; False when there is a failure among them."""
    findings = list(examine(out, shards))
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        _print(findings)
    return all(f.verdict != "failure" for f in findings)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    # Without a terminal to fit, such as under srun, cut nothing.
    console = console if console.is_terminal else Console(width=150, highlight=False)
    table = Table(box=None)
    for name in ("", "what", "found", "what to do"):
        table.add_column(name)
    for f in findings:
        mark = f"[{_STYLES[f.verdict]}]{f.verdict}[/]"
        table.add_row(mark, f.topic, f.found, f.advice)
    console.print(table)
    counts = {v: sum(f.verdict == v for f in findings) for v in _STYLES}
    console.print(
        f"{counts['fine']} fine, {counts['warning']} warnings, {counts['failure']} failures"
    )
