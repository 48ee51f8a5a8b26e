"""samples.parquet against the index, and splits that must not share a place.

Columns are compared whole: nine million samples take seconds, and no object each.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.checks.notes import Columns
from shards.checks.report import Report
from shards.codec import META_PART
from shards.dataset import Dataset
from shards.errors import ShardError
from shards.filters import samples_columns
from shards.keys import Keys
from shards.manifest import SAMPLES, read_manifest
from shards.plan import grid_cells
from shards.splitting import FOLDER, read_splitting

_REMAKE = "remove it and run the same build again"
_SAME_PLACE_DEG = 1e-9


@dataclass(frozen=True)
class Table:
    """What samples.parquet says of every sample [N]: degrees or NaN, and a digest of its parts."""

    lon: np.ndarray
    lat: np.ndarray
    content: np.ndarray


@dataclass(frozen=True)
class Splits:
    """The splits of the build, or others made later: `split_of` [N] are positions in `names`.

    `published` are those a source gave itself.
    """

    where: Path
    names: tuple[str, ...]
    split_of: np.ndarray
    cell_deg: float
    todo: str
    published: bool = False


def check_table(report: Report, dataset: Dataset) -> Table | None:
    """Compare the table with the index; its columns when it belongs to this data set."""
    where = dataset.path / SAMPLES
    try:
        if not _same_keys(_column(dataset, "key"), dataset.keys):
            report.error("semantics", where, "its keys differ from the index's", _REMAKE)
            return None
        own, codes = build_splits(dataset), _codes(_column(dataset, "split"), dataset)
        if not np.array_equal(codes, own.split_of):
            report.error("semantics", where, "its splits differ from the manifest's", _REMAKE)
        _check_presence(report, dataset, where)
        table = Table(
            lon=_column(dataset, "lon").to_numpy(zero_copy_only=False).astype(np.float64),
            lat=_column(dataset, "lat").to_numpy(zero_copy_only=False).astype(np.float64),
            content=_column(dataset, "content").to_numpy(zero_copy_only=False),
        )
    except ShardError as error:
        report.error("semantics", where, str(error), _REMAKE)
        return None
    _check_keys(report, dataset, where)
    return table


def check_places(report: Report, table: Table, tar: Path, start: int, columns: Columns) -> None:
    """Compare the table with what one shard's samples, from number `start` on, say themselves."""
    told = slice(start, start + len(columns.lon))
    known = np.isfinite(columns.lon) & np.isfinite(columns.lat)
    apart = np.maximum(np.abs(table.lon[told] - columns.lon), np.abs(table.lat[told] - columns.lat))
    num = int((known & ~(apart <= _SAME_PLACE_DEG)).sum())
    if num:
        what = f"its lon and lat differ from those of {num} samples of {tar}"
        report.error("semantics", report.path / SAMPLES, what, _REMAKE)


def build_splits(dataset: Dataset) -> Splits:
    """The splits the data set was built with."""
    names = tuple(dataset.manifest["splits"])
    number = {name: s for s, name in enumerate(names)}
    counts = [shard["num_samples"] for shard in dataset.manifest["shards"]]
    of_shard = np.array([number[split] for split, _ in dataset.shards], np.uint8)
    recipe = dataset.manifest["recipe"]
    published = recipe.get("splits") == "source"
    todo = "the places in the source's listing and in its samples differ; correct the source"
    if published:
        todo = "the source says so; deal them out anew by `python -m shards split` where it matters"
    split_of = np.repeat(of_shard, counts)
    return Splits(dataset.path, names, split_of, recipe["split_cell_deg"], todo, published)


def later_splits(report: Report, dataset: Dataset) -> list[Splits]:
    """The splits made after the build; tells of those that cannot be read."""
    found = []
    for path in sorted((dataset.path / FOLDER).glob("*.json")):
        remake = f"remove {path.stem}.json and {path.stem}.bin and make them again: shards split"
        try:
            made = read_splitting(dataset, path.stem)
            cell_deg = read_manifest(path)["cell_deg"]
        except (ShardError, OSError) as error:
            report.error("semantics", path, str(error), remake)
            continue
        if len(made.split_of) != dataset.num_samples or made.split_of.max() >= len(made.names):
            report.error("semantics", path, "deals out other samples than there are", remake)
            continue
        found.append(Splits(path, made.names, made.split_of, cell_deg, remake))
    return found


def check_leakage(report: Report, splits: Splits, table: Table) -> None:
    """Neighbours on both sides of a split make held-out scores too good."""
    placed = np.isfinite(table.lon) & np.isfinite(table.lat)
    cells = grid_cells(table.lon[placed], table.lat[placed], splits.cell_deg)
    split_of = splits.split_of[placed]
    order = np.lexsort((split_of, cells))
    cells, split_of = cells[order], split_of[order]
    border = (cells[1:] == cells[:-1]) & (split_of[1:] != split_of[:-1])
    shared = np.unique(cells[1:][border])
    if not len(shared):
        return
    cell = int(shared[0])
    names = sorted(splits.names[s] for s in np.unique(split_of[cells == cell]))
    # Splits a source publishes are what its scores compare on: for people to judge, not to forbid.
    tell = report.warning if splits.published else report.error
    tell(
        "semantics",
        splits.where,
        f"{len(shared)} grid cells of {splits.cell_deg:g} degrees lie in two splits, such as "
        f"({cell >> 32}, {cell & 0xFFFFFFFF}) in {' and '.join(names)}",
        splits.todo,
    )


def _check_presence(report: Report, dataset: Dataset, where: Path) -> None:
    column = samples_columns(dataset, ["present"])
    try:
        parts = json.loads((column.schema.metadata or {})[b"parts"])
    except (KeyError, ValueError) as error:
        raise ShardError(f"{where} does not say which parts its bits mean") from error
    present = column.column("present").to_numpy()
    for p, part in enumerate(parts):
        if part == META_PART:
            continue
        name = part.partition(".")[0]
        differing = np.flatnonzero((present >> p & 1).astype(bool) != dataset.present(name))
        if differing.size:
            key = dataset.keys[int(differing[0])]
            what = f"{name} is present by one, not the other: {key}"
            report.error("semantics", where, what, _REMAKE)


def _check_keys(report: Report, dataset: Dataset, where: Path) -> None:
    pc, keys = _compute(), _arrow_keys(dataset.keys)
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    counts = pc.value_counts(keys)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").slice(0, 5)
    report.error("semantics", where, f"keys come twice: {', '.join(twice.to_pylist())}")


def _column(dataset: Dataset, name: str) -> Any:
    """One column as one array. Raises ShardError."""
    import pyarrow as pa

    table = samples_columns(dataset, [name])
    if name not in table.column_names:
        raise ShardError(f"it has no column {name}")
    column = table.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _same_keys(column: Any, keys: Any) -> bool:
    import pyarrow as pa

    return column.cast(pa.large_string()).equals(_arrow_keys(keys))


def _arrow_keys(keys: Any) -> Any:
    """The keys as an arrow array that points at the index's own bytes."""
    import pyarrow as pa

    assert isinstance(keys, Keys)
    offsets = np.concatenate([[0], keys.ends]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(keys.text)]
    return pa.Array.from_buffers(pa.large_string(), len(keys), buffers)


def _codes(column: Any, dataset: Dataset) -> np.ndarray:
    """Positions in the manifest's list of splits; -1 for names it lacks."""
    names = list(dataset.manifest["splits"])
    encoded = column.fill_null("").dictionary_encode()
    known = [names.index(n) if n in names else -1 for n in encoded.dictionary.to_pylist()]
    return np.array(known, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]


def _compute() -> Any:
    # Untyped on purpose: pyarrow makes these functions when it is imported.
    import pyarrow.compute

    return pyarrow.compute
