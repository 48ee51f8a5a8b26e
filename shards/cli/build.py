"""plan, build and status."""

from typing import TYPE_CHECKING, Annotated

import typer

from shards.cli.output import (
    ConfigOption,
    Folder,
    JsonOption,
    Overrides,
    QuietOption,
    print_json,
    print_table,
    settings_of,
)
from shards.defaults import LEASE_S

if TYPE_CHECKING:
    from shards.build import BuildResult


def plan(config: ConfigOption, overrides: Overrides = None, as_json: JsonOption = False):
    """Show which shards a build would make. Writes nothing."""
    from shards.build import load_or_make_plan
    from shards.sources import open_source

    settings = settings_of(config, overrides)
    made, _ = load_or_make_plan(settings, open_source(settings.source))
    every = made.shards
    rows = [
        {
            "split": split,
            "shards": len(shards := [s for s in every if s.split == split]),
            "samples": count,
            "source_mb": round(sum(s.num_bytes for s in shards) / 1e6, 1),
        }
        for split, count in made.counts.items()
    ]
    if as_json:
        print_json({"digest": made.digest, "num_samples": made.num_samples, "splits": rows})
    else:
        print_table(f"plan {made.digest} for {settings.out}", rows)


def build(
    config: ConfigOption,
    overrides: Overrides = None,
    array: Annotated[
        bool, typer.Option("--array", help="One of several processes that share the work by files.")
    ] = False,
    lease: Annotated[
        float,
        typer.Option(help="--array: seconds without a sign of life until work is taken over."),
    ] = LEASE_S,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
):
    """Make, finish or confirm a data set; under `mpiexec -n N`, with N ranks."""
    settings = settings_of(config, overrides)
    if array:
        from shards.array import build_array

        result: BuildResult | None = build_array(settings, quiet=quiet, lease_s=lease)
    else:
        from shards.build import build as run_build

        result = run_build(settings, quiet=quiet)
    if result is None:
        return
    if as_json:
        print_json({**vars(result), "out": str(result.out)})
    elif result.num_built == 0:
        print(
            f"{result.out}: everything is done: {result.num_samples} samples in "
            f"{result.num_shards} shards, fingerprint {result.fingerprint}"
        )
    else:
        left_out = f", {result.num_quarantined} faults" if result.num_quarantined else ""
        print(
            f"{result.out}: {result.num_samples} samples in {result.num_shards} shards "
            f"({result.num_built} built now{left_out}) in {result.seconds:.1f} s, fingerprint "
            f"{result.fingerprint}"
        )


def status(path: Folder, as_json: JsonOption = False):
    """Show how far a build is: samples, rate, time left, who is at work. Disturbs nobody."""
    from shards.status import build_status

    found = build_status(path)
    if as_json:
        print_json(found)
        return
    claims = found.pop("claims")
    print_table(f"{found.pop('path')}", [found])
    if claims:
        print_table("at work", claims)
