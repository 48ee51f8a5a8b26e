"""verify, inspect, preview and bench."""

from pathlib import Path
from typing import Annotated

import typer

from shards.cli.output import Folder, JsonOption, QuietOption, print_json, print_table
from shards.defaults import MAX_DAYS
from shards.errors import ShardError

_MAX_SHOWN = 100


def verify(
    path: Folder,
    level: Annotated[
        str, typer.Option(help="sizes, walk, digests, decode or semantics; each with those before.")
    ] = "semantics",
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the shards.")] = 1,
    sample: Annotated[
        float, typer.Option(help="Read only this share of the shards; all are checked for size.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Which shards --sample draws.")] = 0,
    max_days: Annotated[
        int, typer.Option(min=0, help="So far apart may a sample's acquisitions be.")
    ] = MAX_DAYS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
):
    """Check a data set; exit status 1 when something is wrong."""
    from shards.verify import LEVELS
    from shards.verify import verify as run_verify

    if level not in LEVELS:
        raise ShardError(f"no level {level!r}; write --level {' | '.join(LEVELS)}")
    if not 0 < sample <= 1:
        raise ShardError(f"--sample {sample:g}: write a share above 0, at most 1, such as 0.05")
    report = run_verify(
        path, level, jobs=jobs, sample=sample, seed=seed, max_days=max_days, quiet=quiet
    )
    if as_json:
        print_json(report.to_dict())
    else:
        found = [*report.errors, *report.warnings]
        for finding in found[:_MAX_SHOWN]:
            print(f"{finding.severity}: [{finding.level}] {finding.where}: {finding.what}")
            print(f"    -> {finding.todo}")
        if len(found) > _MAX_SHOWN:
            print(f"... and {len(found) - _MAX_SHOWN} more; --json gives all")
        counts = {
            "shards": report.num_shards,
            "read": report.num_read,
            "samples": report.num_samples,
            "parts": report.num_parts,
            "errors": len(report.errors),
            "warnings": len(report.warnings),
            "seconds": round(report.seconds["total"], 1),
        }
        told = level
        if sample < 1:
            told += f"; only {report.num_read} of {report.num_shards} shards were read"
        print_table(f"{path}: {'sound' if report.ok else 'NOT sound'} ({told})", [counts])
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
