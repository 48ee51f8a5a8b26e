"""`python -m launch.status DIR [--json | --watch]`: every training run below DIR, from files alone.

Works while they run, on a login node, without Slurm and without torch.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.runs import RunStatus, find_runs

_COLORS = {
    "done": "green",
    "running": "cyan",
    "stalled": "bold red",
    "preempted": "blue",
    "failed": "red",
    "stopped": "yellow",
    "pending": "dim",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def as_table(runs: list[RunStatus]) -> Table:
    table = Table("run", "state")
    for name in ("step", "loss", "samples/s", "ETA", "commit", "restarts"):
        table.add_column(name, justify="right")
    table.add_column("node")
    for run in runs:
        reason = f" ({run.reason})" if run.reason and run.state != "running" else ""
        commit = _shown(run.committed_step, "d")
        if run.commit_age_s is not None:
            commit += f", {_clock(run.commit_age_s)} ago"
        table.add_row(
            run.path,
            f"[{_COLORS[run.state]}]{run.state}[/]{reason}",
            f"{_shown(run.step, 'd')}/{_shown(run.num_steps, 'd')}",
            _shown(run.loss, ".4f"),
            _shown(run.samples_per_s, ".1f"),
            "-" if run.eta_s is None else _clock(run.eta_s),
            commit,
            _shown(run.restarts, "d"),
            run.host or "-",
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A folder with runs somewhere below it.")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 5.0,
) -> None:
    """Show every training run below FOLDER: state, step, loss, speed, ETA, last commit, restarts."""
    if not folder.is_dir():
        typer.echo(f"error: no folder {folder}", err=True)
        raise typer.Exit(2)
    if as_json and watch:
        typer.echo("error: --json is for programs, --watch for people; give one of them", err=True)
        raise typer.Exit(2)
    # Without a terminal to fit, cut nothing.
    console = Console(width=None if sys.stdout.isatty() else 180)
    if watch:
        _watch(folder, console, every)
        return
    runs = find_runs(folder)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))
    elif runs:
        console.print(as_table(runs))
    else:
        typer.echo(
            f"no run below {folder}: none holds a config.yaml of something that is trained, and "
            "nothing of the kind was submitted"
        )


def _watch(folder: Path, console: Console, every: float) -> None:
    """The table, kept up to date until Ctrl-C."""
    with Live(as_table(find_runs(folder)), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(as_table(find_runs(folder)), refresh=True)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    app()
