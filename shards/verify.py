"""Is this data set what its manifest says, and does it make sense? Five levels, each with those before.

    sizes      manifest, index and table are intact; every shard is there in its size
    walk       tar headers, member by member, agree with the index; two zero blocks at the end
    digests    every part's bytes have the digest in the index
    decode     every part decodes and fits its registry row; NaN, range, constant images, equal bands
    semantics  each sample: one grid, one place, days that fit
               all together: samples.parquet agrees with the index; keys are unique; no grid cell in
               two splits; no sample twice, or nearly; no break by date or by source

Errors mean that reading gives something wrong or nothing, or that held-out data leaks; warnings are for
people to judge. How it is done: `shards.checks`.
"""

import datetime
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.modality import Modality
from shards.checks.duplicates import Twins, check_duplicates
from shards.checks.files import StoredShard
from shards.checks.looks import image_for_looks
from shards.checks.notes import Columns, Whole
from shards.checks.pool import check_shards
from shards.checks.report import LEVELS, Finding, Report, Seconds, Timed
from shards.checks.sense import is_acquired
from shards.checks.shard import Context, ShardTask
from shards.checks.steps import find_steps
from shards.checks.table import (
    Table,
    build_splits,
    check_leakage,
    check_places,
    check_table,
    later_splits,
)
from shards.checks.values import strange_values
from shards.dataset import Dataset, open_dataset
from shards.defaults import MAX_DAYS
from shards.errors import ShardError
from shards.index import read_index
from shards.manifest import EXTRA, INDEX, MANIFEST, modalities_of, read_manifest
from shards.mixing import mix_with
from shards.progress import Progress

__all__ = ["LEVELS", "Finding", "Report", "strange_values", "verify"]


def verify(
    path: str | Path,
    level: str = "semantics",
    *,
    jobs: int = 1,
    sample: float = 1.0,
    seed: int = 0,
    max_days: int = MAX_DAYS,
    quiet: bool = True,
) -> Report:
    """Check a data set, its extras included, up to `level`. Never raises for what it finds.

    `jobs` processes share the shards. `sample` is the share of the shards, drawn by `seed`, that is
    read beyond `sizes`. Acquisitions of one sample may lie `max_days` apart. Without `quiet` a line
    says how far the reading is.

    Raises ValueError for an unknown level or a share outside 0 .. 1, ShardError when a process dies.
    """
    if level not in LEVELS or not 0 < sample <= 1 or jobs < 1:
        raise ValueError(f"level {level!r}, sample {sample}, jobs {jobs}: no such check")
    begin_s = time.monotonic()
    report = Report(Path(path), level)
    try:
        manifest = read_manifest(report.path / MANIFEST)
        rows = modalities_of(manifest)
    except ShardError as error:
        report.error("sizes", report.path, str(error), "see there")
    else:
        _Verification(report, manifest, rows, max_days).run(jobs, sample, seed, quiet=quiet)
    report.seconds["total"] = time.monotonic() - begin_s
    return report


class _Verification:
    """One check of one data set; `run` fills the report."""

    def __init__(
        self, report: Report, manifest: dict[str, Any], rows: dict[str, Modality], max_days: int
    ) -> None:
        self._report, self._manifest, self._rows = report, manifest, rows
        self._folders = [report.path]
        self._stores = [_stored(report.path, manifest["shards"])]
        self._seconds = Seconds()
        self._add_extras()
        for folder in self._folders:
            try:
                read_index(folder / INDEX)
            except ShardError as error:
                report.error("sizes", folder / INDEX, str(error), "see there")
        looks = image_for_looks([name for name, row in rows.items() if is_acquired(row)])
        today = datetime.datetime.now(datetime.UTC).date()
        self._context = Context(report.level, rows, looks, today, max_days)
        self._counts: list[int] = [shard["num_samples"] for shard in manifest["shards"]]
        self._whole = Whole()

    def run(self, jobs: int, sample: float, seed: int, *, quiet: bool) -> None:
        report = self._report
        dataset = self._open()
        table: Table | None = None
        if dataset is not None and self._context.asks("semantics"):
            with Timed(self._seconds, "semantics"):
                table = check_table(report, dataset)
            self._whole.columns = Columns.empty(dataset.num_samples)
        self._read_shards(self._tasks(sample, seed), table, jobs, quiet=quiet)
        report.findings += self._whole.remarks.findings(self._whole.num_read)
        if dataset is not None and table is not None:
            with Timed(self._seconds, "semantics"):
                self._check_whole(dataset, table)
        report.seconds = {level: self._seconds[level] for level in LEVELS if level in self._seconds}

    def _add_extras(self) -> None:
        """Take in every extra; the rows of added modalities join those of the build."""
        for path in sorted(self._report.path.glob(f"{EXTRA}/*/{MANIFEST}")):
            try:
                manifest = read_manifest(path)
                if "modality" in manifest:
                    self._rows |= modalities_of({"modalities": [manifest["modality"]]})
            except ShardError as error:
                todo = "remove that extra and make it again"
                self._report.error("sizes", path, str(error), todo)
            else:
                self._folders.append(path.parent)
                self._stores.append(_stored(path.parent, manifest["shards"]))

    def _open(self) -> Dataset | None:
        """The data set when its index can be used as a whole."""
        try:
            dataset = open_dataset(self._report.path, verify=False)
            # Columns are checked when they are first used, which should not be later.
            for name in (*dataset.modalities, *dataset.extras):
                dataset.present(name)
            self._report.num_samples = len(dataset.keys)
        except ShardError as error:
            if not any(f.where.endswith(INDEX) for f in self._report.errors):
                self._report.error("sizes", self._report.path, str(error), "see there")
            return None
        return dataset

    def _tasks(self, sample: float, seed: int) -> list[ShardTask]:
        """One task per shard of the data set; a share of them is read."""
        listed = self._manifest["shards"]
        rank = np.argsort(np.argsort(mix_with(np.arange(len(listed)), seed)))
        num_read = math.ceil(sample * len(listed)) if self._context.asks("walk") else 0
        tasks = []
        for number, shard in enumerate(listed):
            name = (shard["split"], shard["name"])
            stores = [store[name] for store in self._stores if name in store]
            tasks.append(ShardTask(number, stores, bool(rank[number] < num_read)))
            self._report.num_shards += len(stores)
        return tasks

    def _read_shards(
        self, tasks: list[ShardTask], table: Table | None, jobs: int, *, quiet: bool
    ) -> None:
        report, counts = self._report, self._counts
        starts = np.cumsum([0, *counts]).tolist()
        read = [counts[task.number] for task in tasks if task.read]
        results = check_shards(self._context, tasks, jobs if read else 1)
        with Progress(sum(read), quiet=quiet) as progress:
            for task, found in zip(tasks, results, strict=True):
                report.findings += found.findings
                report.num_read += found.num_stores
                report.num_parts += found.num_parts
                report.num_bytes += found.num_bytes
                for level, seconds in found.seconds.items():
                    self._seconds.add(level, seconds)
                start = starts[task.number]
                self._whole.merge(found, start)
                if table is not None and found.columns is not None:
                    check_places(report, table, task.stores[0].tar, start, found.columns)
                if task.read:
                    progress.advance(counts[task.number], found.num_bytes)

    def _check_whole(self, dataset: Dataset, table: Table) -> None:
        report, whole = self._report, self._whole
        splits = [build_splits(dataset), *later_splits(report, dataset)]
        for dealt in splits:
            check_leakage(report, dealt, table)
        name, cell_deg = self._context.looks, splits[0].cell_deg
        assert whole.columns is not None
        image = self._image_digests(dataset, name)
        check_duplicates(
            report,
            Twins(dataset.keys, table, whole.columns, image, name, whole.tile_m, cell_deg),
            splits,
        )
        report.findings += find_steps(whole.drift, self._rows, self._manifest["source"])

    def _image_digests(self, dataset: Dataset, name: str | None) -> np.ndarray:
        """The digest of each sample's image, 0 where it has none: uint64 [N]."""
        for folder in self._folders:
            index = read_index(folder / INDEX, verify=False)
            for p, part in enumerate(index.parts):
                if name is not None and part.partition(".")[0] == name:
                    there = dataset.present(name)
                    return np.where(there, index.entries["digest"][:, p], np.uint64(0))
        return np.zeros(dataset.num_samples, np.uint64)


def _stored(folder: Path, shards: list[dict[str, Any]]) -> dict[tuple[str, str], StoredShard]:
    """The shards of a manifest by split and name."""
    return {
        (shard["split"], shard["name"]): StoredShard(
            folder / shard["split"] / f"{shard['name']}.tar", shard["digest"], shard["tar_bytes"]
        )
        for shard in shards
    }
