"""`python -m shards`: plan, build, verify, inspect and preview sharded data sets."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from shards.errors import ShardError

if TYPE_CHECKING:
    from configs.schema import ShardsConfig

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: rich takes longer to load than everything else here.
    rich_markup_mode=None,
    help="Aligned multi-modal samples as tar shards.",
)

ConfigOption = Annotated[str, typer.Option("--config", help="A YAML file of kind `shards`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it: key=value ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a data set.")]


@app.command("plan")
def plan_command(config: ConfigOption, overrides: Overrides = None, as_json: JsonOption = False):
    """Show which shards a build would make. Writes nothing."""
    from shards.build import load_or_make_plan
    from shards.sources import open_source

    settings = _settings(config, overrides)
    plan, _ = load_or_make_plan(settings, open_source(settings.source))
    every = plan.shards
    rows = [
        {
            "split": split,
            "shards": len(shards := [s for s in every if s.split == split]),
            "samples": count,
            "source_mb": round(sum(s.num_bytes for s in shards) / 1e6, 1),
        }
        for split, count in plan.counts.items()
    ]
    if as_json:
        _print_json({"digest": plan.digest, "num_samples": plan.num_samples, "splits": rows})
    else:
        _print_table(f"plan {plan.digest} for {settings.out}", rows)


@app.command()
def build(
    config: ConfigOption,
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress lines.")] = False,
    as_json: JsonOption = False,
):
    """Make, finish or confirm a data set; under `mpiexec -n N`, with N ranks."""
    from shards.build import build as run_build

    settings = _settings(config, overrides)
    result = run_build(settings, quiet=quiet)
    if result is None:
        return
    if as_json:
        _print_json({**vars(result), "out": str(result.out)})
    elif result.num_built == 0:
        print(
            f"{result.out}: everything is done: {result.num_samples} samples in "
            f"{result.num_shards} shards, fingerprint {result.fingerprint}"
        )
    else:
        left_out = f", {result.num_quarantined} left out" if result.num_quarantined else ""
        print(
            f"{result.out}: {result.num_samples} samples in {result.num_shards} shards "
            f"({result.num_built} built now{left_out}) in {result.seconds:.1f} s, fingerprint "
            f"{result.fingerprint}"
        )


@app.command()
def verify(
    path: Folder,
    level: Annotated[
        str, typer.Option(help="sizes, walk, digests, decode or semantics; each with those before.")
    ] = "semantics",
    as_json: JsonOption = False,
):
    """Check a data set; exit status 1 when something is wrong."""
    from shards.verify import LEVELS
    from shards.verify import verify as run_verify

    if level not in LEVELS:
        raise ShardError(f"no level {level!r}; write --level {' | '.join(LEVELS)}")
    report = run_verify(path, level)
    if as_json:
        _print_json(report.to_dict())
    else:
        for finding in report.findings:
            print(f"{finding.severity}: [{finding.level}] {finding.where}: {finding.what}")
            print(f"    -> {finding.todo}")
        counts = {
            "shards": report.num_shards,
            "samples": report.num_samples,
            "parts": report.num_parts,
            "errors": len(report.errors),
            "warnings": len(report.warnings),
        }
        _print_table(f"{path}: {'sound' if report.ok else 'NOT sound'} ({level})", [counts])
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Folder,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="One sample.")] = None,
    as_json: JsonOption = False,
):
    """Show what a data set holds, or the parts of one sample."""
    from shards.dataset import open_dataset
    from shards.inspection import describe_dataset, describe_sample

    dataset = open_dataset(path)
    found = describe_sample(dataset, key) if key else describe_dataset(dataset)
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, list) and isinstance(value[0], dict):
            _print_table(name, value)
        else:
            print(f"{name}: {value}")


@app.command()
def preview(
    path: Folder,
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    num: Annotated[int, typer.Option(min=1, help="At most so many samples.")] = 6,
    split: Annotated[str | None, typer.Option(help="Only of this split.")] = None,
):
    """Write a contact sheet: one row per sample, one column per modality."""
    from shards.dataset import open_dataset
    from shards.preview import contact_sheet, spread

    dataset = open_dataset(path)
    samples = spread(dataset.select(split), num)
    if not len(samples):
        raise ShardError(f"{path}: nothing to show: the split {split!r} has no samples")
    contact_sheet(dataset, samples, out)
    print(f"{out}: {len(samples)} samples")


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; what a user can put right ends with `error: ...` and status 2."""
    try:
        app(arguments)
    except ShardError as error:
        _refuse(error)
    except ValueError as error:
        # Not imported above: it brings pydantic along, and `--help` should not wait for that.
        from configs.errors import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    if _speaks():
        print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _speaks() -> bool:
    """Whether this process is the one of its MPI ranks that tells the user."""
    from shards.build import mpi_rank

    return mpi_rank() == 0


def _settings(config: str, overrides: list[str] | None) -> "ShardsConfig":
    from configs.load import load_config
    from configs.schema import ShardsConfig

    settings = load_config(config, overrides or (), kind="shards")
    assert isinstance(settings, ShardsConfig)
    return settings


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        number = isinstance(rows[0][column], int | float)
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
