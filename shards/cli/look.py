"""verify, inspect, preview and bench."""

from pathlib import Path
from typing import Annotated

import typer

from shards.cli.output import Folder, JsonOption, print_json, print_table
from shards.errors import ShardError


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
        print_json(report.to_dict())
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
        print_table(f"{path}: {'sound' if report.ok else 'NOT sound'} ({level})", [counts])
    if not report.ok:
        raise typer.Exit(1)


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
        print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print_table(name, value)
        else:
            print(f"{name}: {value}")


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


def bench(
    path: Folder,
    modalities: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="How many to read.")] = 256,
    threads: Annotated[int, typer.Option(min=1)] = 4,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop the files from the cache first.")
    ] = False,
    as_json: JsonOption = False,
):
    """Measure how fast this data set comes from this disk."""
    from shards.dataset import open_dataset
    from shards.measure import measure

    dataset = open_dataset(path)
    names = modalities.split(",") if modalities else list(dataset.own_modalities)
    rows = measure(dataset, names, samples, threads, cold=cold)
    if as_json:
        print_json({"path": str(path), "modalities": names, "cold": cold, "ways": rows})
    else:
        print_table(f"{path}: {', '.join(names)}, {'cold' if cold else 'warm'}", rows)
