"""Is this data set what its manifest says, and does it make sense? Five levels, each with those before.

    sizes      manifest, index and table are intact; every shard is there in its size
    walk       tar headers, member by member, agree with the index; two zero blocks at the end
    digests    every part's bytes have the digest in the index
    decode     every part decodes and fits its registry row; NaN, range and constant images
    semantics  samples.parquet agrees with the index; keys are unique; no grid cell in two splits

Errors mean that reading gives something wrong or nothing; warnings are for people to judge.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.codec import META_PART
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, ShardError
from shards.filters import samples_columns
from shards.index import ShardIndex, index_path, member_layout, read_index
from shards.manifest import EXTRA, INDEX, MANIFEST, read_manifest
from shards.plan import grid_cells
from shards.sample import part_problem
from shards.stats import valid_pixels
from shards.tar import BLOCK_BYTES, END, parse_header

LEVELS = ("sizes", "walk", "digests", "decode", "semantics")
_REMAKE = "remove the shard's .tar and .idx and run the same build again"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or strange: where, what, and what to do about it."""

    severity: Literal["error", "warning"]
    level: str
    where: str
    what: str
    todo: str


@dataclass
class Report:
    """What was looked at and what was found."""

    path: Path
    level: str
    num_shards: int = 0
    num_samples: int = 0
    num_parts: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def ok(self) -> bool:
        return not self.errors

    def error(self, level: str, where: str | Path, what: str, todo: str = _REMAKE) -> None:
        self.findings.append(Finding("error", level, str(where), what, todo))

    def warning(self, level: str, where: str | Path, what: str, todo: str) -> None:
        self.findings.append(Finding("warning", level, str(where), what, todo))

    def to_dict(self) -> dict[str, object]:
        return {
            "path": str(self.path),
            "level": self.level,
            "ok": self.ok,
            "num_shards": self.num_shards,
            "num_samples": self.num_samples,
            "num_parts": self.num_parts,
            "findings": [dataclasses.asdict(f) for f in self.findings],
        }


def verify(path: str | Path, level: str = "semantics") -> Report:
    """Check a data set, its extras included, up to `level`. Never raises for what it finds.

    Raises ValueError for an unknown level.
    """
    depth = LEVELS.index(level)
    report = Report(Path(path), level)
    try:
        manifest = read_manifest(report.path / MANIFEST)
    except ShardError as error:
        report.error("sizes", report.path, str(error), "see there")
        return report
    _verify_store(report, report.path, manifest["shards"], depth)
    for extra in sorted(report.path.glob(f"{EXTRA}/*/{MANIFEST}")):
        try:
            shards = read_manifest(extra)["shards"]
        except ShardError as error:
            report.error("sizes", extra, str(error), "remove that extra and make it again")
        else:
            _verify_store(report, extra.parent, shards, depth)
    try:
        dataset = open_dataset(report.path, verify=False)
    except ShardError as error:
        report.error("sizes", report.path, str(error), "see there")
        return report
    report.num_samples = dataset.num_samples
    if depth >= LEVELS.index("decode"):
        _verify_values(report, dataset)
    if depth >= LEVELS.index("semantics"):
        _verify_table(report, dataset)
    return report


def _verify_store(report: Report, folder: Path, shards: list[dict[str, Any]], depth: int) -> None:
    try:
        read_index(folder / INDEX)
    except ShardError as error:
        report.error("sizes", folder / INDEX, str(error), "run the same build again")
    for shard in shards:
        tar = folder / shard["split"] / f"{shard['name']}.tar"
        report.num_shards += 1
        try:
            index = read_index(index_path(tar))
        except ShardError as error:
            report.error("sizes", index_path(tar), str(error))
            continue
        if index.digest != shard["digest"]:
            report.error("sizes", index_path(tar), "is another index than the manifest's")
            continue
        if not tar.is_file():
            report.error("sizes", tar, "missing")
            continue
        size = tar.stat().st_size
        if size != shard["tar_bytes"]:
            report.error("sizes", tar, f"{size} bytes, {shard['tar_bytes']} expected")
        if depth >= LEVELS.index("walk"):
            _verify_tar(report, tar, index, digests=depth >= LEVELS.index("digests"))


def _verify_tar(report: Report, tar: Path, index: ShardIndex, *, digests: bool) -> None:
    """Read the tar once, front to back, beside its index."""
    expected_end = 0
    with tar.open("rb") as file:
        for (name, offset, size), digest in zip(member_layout(index), _digests(index), strict=True):
            report.num_parts += 1
            file.seek(offset - BLOCK_BYTES)
            try:
                header = parse_header(file.read(BLOCK_BYTES))
            except DamagedError as error:
                report.error("walk", tar, f"offset {offset - BLOCK_BYTES}, {name}: {error}")
                header = None
            else:
                if header is None or tuple(header) != (name, size):
                    found = f"{header.name}, {header.num_bytes} bytes" if header else "the end"
                    place = f"offset {offset - BLOCK_BYTES}"
                    report.error("walk", tar, f"{place}: {found}; {name} is there by the index")
            if offset - BLOCK_BYTES != expected_end:
                report.error("walk", tar, f"{name} does not follow the member before it")
            expected_end = offset + size + -size % BLOCK_BYTES
            if digests:
                data = file.read(size)
                if len(data) < size:
                    report.error("digests", tar, f"offset {offset}, {name}: the file ends inside")
                elif xxhash.xxh3_64_intdigest(data) != digest:
                    report.error("digests", tar, f"offset {offset}, {name}: damaged bytes")
        file.seek(expected_end)
        tail = file.read()
    if tail != END:
        report.error(
            "walk", tar, f"{len(tail)} bytes after the last member, two zero blocks expected"
        )


def _digests(index: ShardIndex) -> Iterator[int]:
    """Digests in the order of `member_layout`."""
    for bits, digests in zip(index.present.tolist(), index.entries["digest"], strict=True):
        for p, digest in enumerate(digests.tolist()):
            if bits >> p & 1:
                yield digest


def _verify_values(report: Report, dataset: Dataset) -> None:
    """Decode every part and hold it against its row; strange values are counted per modality."""
    strange: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    names = (*dataset.modalities, *dataset.extras)
    present = {name: dataset.present(name) for name in names}
    for i in range(dataset.num_samples):
        try:
            dataset.meta(i)
        except DamagedError as error:
            _undecodable(report, error)
        for name in names:
            if not present[name][i]:
                continue
            try:
                part = dataset.read(i, [name])[name]
            except DamagedError as error:
                _undecodable(report, error)
                continue
            if name not in dataset.modalities:
                continue
            row = dataset.modalities[name]
            wrong = part_problem(part, row)
            if wrong:
                where = f"{dataset.keys[i]}.{name}"
                report.error("decode", where, wrong)
            elif isinstance(part, np.ndarray):
                for what in strange_values(part, row):
                    strange[name, what] += 1
                    examples.setdefault((name, what), dataset.keys[i])
    for (name, what), count in strange.items():
        report.warning(
            "decode",
            name,
            f"{what} in {count} of {int(present[name].sum())} samples, such as "
            f"{examples[name, what]}",
            "look at them: python -m shards preview; nodata pixels are left out of training",
        )


def strange_values(array: np.ndarray, row: Modality) -> list[str]:
    """What deserves a look in an array of the right type: nothing, or phrases."""
    if not row.is_map:
        low, high = row.valid_range or (-np.inf, np.inf)
        outside = not np.isfinite(array).all() or array.min() < low or array.max() > high
        return ["values out of range"] if outside else []
    found = []
    valid = valid_pixels(array, row)
    values = array[valid]
    if values.size == 0:
        return ["no valid pixel"]
    if array.dtype.kind == "f" and np.isinf(array).any():
        found.append("infinite values")
    if row.valid_range and (values.min() < row.valid_range[0] or values.max() > row.valid_range[1]):
        found.append(f"values outside {row.valid_range[0]:g} .. {row.valid_range[1]:g} {row.unit}")
    # One class or one height over a whole tile is a plain or a lake; one radiance is a fault.
    if row.kind == "image" and row.num_bands > 1 and values.min() == values.max():
        found.append("a constant image")
    return found


def _undecodable(report: Report, error: DamagedError) -> None:
    # The same damage was told with its place by the digest level.
    if not any(f.level == "digests" for f in report.errors):
        report.error("decode", report.path, str(error))


def _verify_table(report: Report, dataset: Dataset) -> None:
    where = dataset.path / "samples.parquet"
    todo = "remove it and run the same build again"
    try:
        columns = samples_columns(dataset)
        parts = json.loads((columns.schema.metadata or {})[b"parts"])
        table = columns.to_pydict()
    except ShardError as error:
        report.error("semantics", where, str(error), todo)
        return
    if table["key"] != list(dataset.keys):
        report.error("semantics", where, "its keys differ from the index's", todo)
        return
    _verify_splits(report, dataset, table)
    if table["split"] != dataset.splits.tolist():
        report.error("semantics", where, "its splits differ from the manifest's", todo)
    for p, part in enumerate(parts):
        if part == META_PART:
            continue
        told = np.array([bits >> p & 1 for bits in table["present"]], bool)
        name = part.partition(".")[0]
        differing = np.flatnonzero(told != dataset.present(name))
        if differing.size:
            key = dataset.keys[int(differing[0])]
            report.error(
                "semantics", where, f"{name} is present by one, not the other: {key}", todo
            )
    repeated = [key for key, count in Counter(dataset.keys).items() if count > 1]
    if repeated:
        report.error("semantics", where, f"keys come twice: {', '.join(repeated[:5])}")


def _verify_splits(report: Report, dataset: Dataset, table: dict[str, list[Any]]) -> None:
    """Neighbours on both sides of a split make held-out scores too good."""
    cell_deg = dataset.manifest["recipe"]["split_cell_deg"]
    lon, lat = (np.array(table[name], np.float64) for name in ("lon", "lat"))
    placed = np.isfinite(lon) & np.isfinite(lat)
    cells = grid_cells(lon[placed], lat[placed], cell_deg).tolist()
    splits_of: dict[int, set[str]] = {}
    for cell, split in zip(cells, dataset.splits[placed], strict=True):
        splits_of.setdefault(cell, set()).add(str(split))
    shared = {cell: splits for cell, splits in splits_of.items() if len(splits) > 1}
    if shared:
        cell, splits = next(iter(shared.items()))
        report.error(
            "semantics",
            dataset.path,
            f"{len(shared)} grid cells of {cell_deg:g} degrees lie in two splits, such as "
            f"({cell >> 32}, {cell & 0xFFFFFFFF}) in "
            f"{' and '.join(sorted(splits))}",
            "the places in the source's listing and in its samples differ; correct the source",
        )
