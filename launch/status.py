"""`python -m launch.status DIR [--json]`: every training run below DIR, from its files alone.

A run is a folder with a `config.yaml` of kind stage1 or stage2. Works while it runs, on a login
node, without Slurm and without torch.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

_FRESH_S = 120.0
_TAIL_BYTES = 1 << 16

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class RunStatus:
    """One run. What its files do not tell is None.

    `state` is `done`, `running` (wrote metrics or a commit within two minutes) or `stopped`.
    """

    path: str
    kind: str
    state: str
    num_steps: int
    step: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    committed_step: int | None = None
    host: str | None = None


def find_runs(folder: Path, now: float | None = None) -> list[RunStatus]:
    """The state of every run at or below `folder`, in order of path."""
    now = time.time() if now is None else now
    return [
        _read_run(path, config, folder, now)
        for path in sorted(folder.rglob("config.yaml"))
        if (config := _run_config(path)) is not None
    ]


def _run_config(path: Path) -> dict[str, Any] | None:
    """The run's configuration as plain values: it may be of another version of the code."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    is_run = isinstance(values, dict) and values.get("kind") in ("stage1", "stage2")
    return values if is_run else None


def _read_run(path: Path, config: dict[str, Any], root: Path, now: float) -> RunStatus:
    run = path.parent
    engine = config["engine"]
    num_steps = int(engine["num_steps"])
    lines = list(_tail(run / "metrics.jsonl"))
    training = [line for line in lines if "loss" in line]
    last = training[-1] if training else {}
    step = max((line["step"] for line in lines), default=None)
    committed = _committed_steps(run / "checkpoints")
    state = "stopped"
    if (run / "DONE").exists():
        state = "done"
    elif now - _last_sign(run) < _FRESH_S:
        state = "running"
    rate = last.get("samples_per_s")
    eta_s = None
    if state == "running" and rate and step is not None:
        eta_s = (num_steps - step) * engine["global_batch"] / rate
    return RunStatus(
        path=str(run.relative_to(root)),
        kind=config["kind"],
        state=state,
        num_steps=num_steps,
        step=step,
        loss=last.get("loss"),
        samples_per_s=rate,
        eta_s=eta_s,
        committed_step=max(committed, default=None),
        host=_host(run / "run.json"),
    )


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    """The last whole lines of a JSON-lines file that may be being written, or cut by a crash."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for text in file.read().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "step" in line:
                yield line


def _committed_steps(checkpoints: Path) -> list[int]:
    found = checkpoints.glob("step-*/MANIFEST.json")
    names = (path.parent.name.removeprefix("step-") for path in found)
    return [int(name) for name in names if name.isdigit()]


def _last_sign(run: Path) -> float:
    """When the run last wrote something: metrics, a commit, its own configuration at the start."""
    paths = (run / "metrics.jsonl", run / "checkpoints", run / "config.yaml")
    return max(path.stat().st_mtime for path in paths if path.exists())


def _host(path: Path) -> str | None:
    try:
        return json.loads(path.read_text()).get("host")
    except (OSError, ValueError):
        return None


def as_table(runs: list[RunStatus]) -> Table:
    table = Table("run", "state")
    for name in ("step", "loss", "samples/s", "ETA", "commit"):
        table.add_column(name, justify="right")
    table.add_column("host")
    colors = {"done": "green", "running": "cyan", "stopped": "yellow"}
    for run in runs:
        table.add_row(
            run.path,
            f"[{colors[run.state]}]{run.state}[/]",
            f"{_shown(run.step, 'd')}/{run.num_steps}",
            _shown(run.loss, ".4f"),
            _shown(run.samples_per_s, ".1f"),
            "-" if run.eta_s is None else _clock(run.eta_s),
            _shown(run.committed_step, "d"),
            run.host or "-",
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A folder with runs somewhere below it.")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
) -> None:
    """Show every training run below FOLDER: state, step, loss, speed, ETA, last commit."""
    if not folder.is_dir():
        typer.echo(f"error: no folder {folder}", err=True)
        raise typer.Exit(2)
    runs = find_runs(folder)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))
    elif runs:
        # Without a terminal to fit, cut nothing.
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(as_table(runs))
    else:
        typer.echo(f"no run below {folder}: none holds a config.yaml of kind stage1 or stage2")


if __name__ == "__main__":
    app()
