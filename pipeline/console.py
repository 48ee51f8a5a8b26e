"""How commands speak and leave."""

from collections.abc import Callable
from pathlib import Path

import typer

from configs import to_yaml
from configs.schema import Frozen, RunConfig


def tell(text: str) -> None:
    """One line to the person at the terminal."""
    typer.echo(text)


def finished(marker: Path, config: Frozen, made_of: Callable[[], str] | None = None) -> bool:
    """The marker is there and was made by this very configuration, of what `made_of` finds now.

    What is gone was not made anew: results of it stand.
    """
    saved = marker.parent / "config.yaml"
    if not (marker.is_file() and saved.is_file() and saved.read_text() == to_yaml(config)):
        return False
    if made_of is None:
        return True
    from pipeline.engine.errors import RunError
    from pipeline.engine.identity import is_made_of

    try:
        return is_made_of(marker, made_of())
    except (RunError, OSError):
        return True


def training_finished(config: RunConfig) -> bool:
    """The run is done, by this very configuration, on the data that is there now."""
    from pipeline.engine.identity import trained_on

    return finished(config.out / "DONE", config) and trained_on(config.out, config.data)


def exit_with(work: Callable[[], int]) -> None:
    """Run, turn errors meant for the user into one line, and leave with the right code."""
    from pipeline.engine.errors import DivergedError, RunError
    from pipeline.engine.lifecycle import GAVE_UP
    from shards.errors import ShardError

    try:
        code = work()
    except DivergedError as error:
        typer.echo(f"error: {error}", err=True)
        code = GAVE_UP
    except (RunError, ShardError) as error:
        typer.echo(f"error: {error}", err=True)
        code = 2
    if code:
        raise typer.Exit(code)
