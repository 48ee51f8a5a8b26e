"""What the commands share: options, tables for people, JSON for programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from configs.schema import ShardsConfig

ConfigOption = Annotated[str, typer.Option("--config", help="A YAML file of kind `shards`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it: key=value ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress lines.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a data set.")]


def settings_of(config: str, overrides: list[str] | None) -> "ShardsConfig":
    """The configuration of a command line. Raises ConfigError."""
    from configs.load import load_config
    from configs.schema import ShardsConfig

    settings = load_config(config, overrides or (), kind="shards")
    assert isinstance(settings, ShardsConfig)
    return settings


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        number = isinstance(rows[0][column], int | float)
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)
