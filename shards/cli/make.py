"""stats, split, merge, add-modality and repair."""

from pathlib import Path
from typing import Annotated

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
from shards.errors import ShardError


def stats(
    path: Folder,
    split: Annotated[str, typer.Option(help="A split, or `all`.")] = "train",
    write: Annotated[
        Path | None, typer.Option(help="Keep them as a statistics set: data.statistics=FILE.yaml")
    ] = None,
    as_json: JsonOption = False,
):
    """Show mean and deviation per band and pixels per class, exact and without nodata."""
    from shards.dataset import open_dataset
    from shards.statistics_set import measured, rows_of, write_set

    dataset = open_dataset(path)
    chosen = None if split == "all" else split
    statistics = measured(dataset, chosen)
    if write is not None:
        if write.suffix != ".yaml":
            raise ShardError(f"{write}: a statistics set is a .yaml file")
        write_set(write, dataset, chosen, statistics)
    if as_json:
        print_json({"bands": statistics.bands(), "classes": statistics.classes()})
    else:
        print_table(f"{path}, {split}", rows_of(statistics))


def split(
    path: Folder,
    name: Annotated[str, typer.Option(help="What to call these splits: data.splitting=NAME.")],
    shares: Annotated[str, typer.Option(help="Such as train=0.8,val=0.1,test=0.1.")],
    cell_deg: Annotated[float, typer.Option(min=0.0001, help="Side of a grid cell.")] = 0.25,
    seed: int = 0,
    as_json: JsonOption = False,
):
    """Deal the samples out anew by whole grid cells; moves no byte of them."""
    import numpy as np

    from shards.dataset import open_dataset
    from shards.splitting import make_splitting

    try:
        wanted = {k: float(v) for k, v in (pair.split("=") for pair in shares.split(","))}
    except ValueError as error:
        raise ShardError(f"--shares {shares!r}: write train=0.8,val=0.2") from error
    made = make_splitting(open_dataset(path), name, wanted, cell_deg, seed)
    counts = np.bincount(made.split_of, minlength=len(made.names)).tolist()
    rows = [{"split": s, "samples": n} for s, n in zip(made.names, counts, strict=True)]
    if as_json:
        print_json({"name": name, "splits": rows})
    else:
        print_table(f"{path}: data.splitting={name}", rows)


def merge(
    out: Folder,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Data sets.")],
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Even if a grid cell gets into two splits.")
    ] = False,
    without_added: Annotated[
        bool, typer.Option("--without-added", help="Leave behind what was added after the builds.")
    ] = False,
    as_json: JsonOption = False,
):
    """Make one data set of several, by links to their shards."""
    from shards.merge import merge as run_merge

    manifest = run_merge(out, sources, allow_leakage=allow_leakage, without_added=without_added)
    row = {
        "samples": manifest["num_samples"],
        "shards": len(manifest["shards"]),
        "fingerprint": manifest["fingerprint"],
    }
    if as_json:
        print_json({"path": str(out), **row})
    else:
        print_table(str(out), [row])


def add_modality(
    path: Folder,
    config: ConfigOption,
    overrides: Overrides = None,
    modalities: Annotated[str, typer.Option(help="Comma-separated; all new ones by default.")] = "",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
):
    """Add modalities of another source to a data set, by key; its shards stay as they are."""
    from shards.add import add_modalities
    from shards.dataset import open_dataset

    settings = settings_of(config, [f"out={path}", *(overrides or ())])
    names = [name for name in modalities.split(",") if name]
    added = add_modalities(open_dataset(path), settings, names, quiet=quiet)
    rows = [
        {
            "modality": a.modality,
            "present": a.num_present,
            "samples": a.num_samples,
            "faults": len(a.faults),
        }
        for a in added
    ]
    if as_json:
        print_json({"path": str(path), "added": rows})
    else:
        print_table(str(path), rows)


def repair(
    path: Folder,
    salvage: Annotated[
        bool,
        typer.Option("--salvage", help="Without the source: keep what is intact, drop the rest."),
    ] = False,
    as_json: JsonOption = False,
):
    """Find damaged shards and make them anew from the source."""
    from shards.repair import repair as run_repair

    done = run_repair(path, salvage=salvage)
    if as_json:
        print_json(
            {
                "path": str(path),
                "shards": done.shards,
                "head": done.head,
                "extras": done.extras,
                "fingerprint": done.result.fingerprint,
                "quarantined": done.result.num_quarantined,
            }
        )
        return
    anew = " and the files over all shards" if done.head else ""
    print(
        f"{path}: {len(done.shards)} shards{anew} made anew, fingerprint {done.result.fingerprint}"
    )
    for name in done.shards:
        print(f"  {name}")
    for folder in dict.fromkeys("/".join(name.split("/")[:2]) for name in done.extras):
        what = "is of the data set as it was" if salvage and done.shards else "is damaged too"
        print(f"  {folder} {what}: remove {path / folder} and make it again")
