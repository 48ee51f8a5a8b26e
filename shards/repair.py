"""Make the damaged shards of a data set whole again, and leave the others alone.

From the source, which gives back the very bytes, extras included in what stays valid; or, where the
source is gone, by salvage: every part that still has its digest is kept in its slot, every other one
becomes a missing one. Salvage makes another data set (another fingerprint), and says what was lost.

    OUT/salvage/{manifest.json,index.bin,samples.parquet,shards.json}    the data set as it was, and the
                                          shards to go through; there while a salvage is under way

A salvage that was stopped reads on by the index as it was: shards it has written have one of their own.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import ShardsConfig
from configs.schema.modality import Modality
from shards import finish
from shards.build import (
    BuildResult,
    build,
    finish_build,
    hold_alone,
    load_or_make_plan,
    result_of,
)
from shards.dataset import Dataset
from shards.errors import DamagedError, SampleError, ShardError
from shards.files import disk_errors, fsync_folder, link_or_copy, to_json, write_atomic
from shards.fill import Site, Task, fill_shard, open_site
from shards.filters import samples_columns
from shards.index import ShardIndex, committed, index_path, read_index, write_joined
from shards.manifest import EXTRA, INDEX, MANIFEST, PLAN, SALVAGE, SAMPLES, read_manifest
from shards.plan import PlannedShard, load_plan
from shards.record import load_record, read_record
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef
from shards.storage import check_parts
from shards.verify import verify
from shards.writer import RECORD_SUFFIX

_NO_BOUND = 1 << 62
_SHARDS = "shards.json"


@dataclass(frozen=True)
class Repair:
    """What was done: shards made anew, extras to be made again, and the resulting data set.

    `head` says that the files over all shards, the index among them, were made anew.
    """

    shards: list[str]
    extras: list[str]
    result: BuildResult
    head: bool = True


def repair(path: Path, *, salvage: bool = False) -> Repair:
    """Find damaged shards (to the level of digests) and make them anew, or what lies over all of them.

    Raises ShardError when the data set has no plan, the source cannot be read (its shards are then
    still as they were), or gives other samples than before.
    """
    # Before the lock, which would leave its file in a folder that is no data set.
    read_manifest(_head(path) / MANIFEST)
    with hold_alone(path):
        head = _head(path)
        manifest = read_manifest(head / MANIFEST)
        if head != path:
            if not salvage:
                raise ShardError(
                    f"a salvage of {path} was stopped before its end; go on with it by `python -m "
                    f"shards repair {path} --salvage`"
                )
            return _salvage(_config_of(path, manifest), manifest)
        own, extras = damaged_files(path)
        if not own:
            sound = finish.is_whole(path) and _table_is_sound(path, manifest)
            if not sound:
                finish.finish_again(path, manifest)
            return Repair([], extras, result_of(path, 0, 0.0), not sound)
        config = _config_of(path, manifest)
        if salvage:
            _set_aside(path, manifest, own)
            return _salvage(config, manifest)
        # Opened and listed before anything is removed: without its source nothing would come back.
        load_or_make_plan(config, open_site(config).source)
        for name in own:
            tar = path / f"{name}.tar"
            for file in (tar, index_path(tar), tar.with_suffix(RECORD_SUFFIX)):
                file.unlink(missing_ok=True)
    result = build(config, quiet=True)
    assert result is not None
    return Repair(own, extras, result)


def damaged_files(path: Path) -> tuple[list[str], list[str]]:
    """What is not as the manifests say: shards, as `train/shard-000000`, and files of extras."""
    where = [Path(finding.where) for finding in verify(path, "digests").errors]
    names = {(str(f.relative_to(path).with_suffix("")), f.suffix) for f in where if f != path}
    extras = {name for name, _ in names if name.startswith(f"{EXTRA}/")}
    own = {name for name, suffix in names if suffix in (".tar", ".idx")} - extras
    return sorted(own), sorted(extras)


def _head(path: Path) -> Path:
    """Where a data set's manifest is: set aside while a salvage is under way."""
    aside = path / SALVAGE
    return aside if (aside / MANIFEST).exists() and not (path / MANIFEST).exists() else path


def _table_is_sound(path: Path, manifest: dict[str, Any]) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path / SAMPLES).num_rows == manifest["num_samples"]
    except (OSError, pa.ArrowException):
        return False


def _config_of(path: Path, manifest: dict[str, Any]) -> ShardsConfig:
    recipe = manifest["recipe"]
    if not (path / PLAN).exists():
        raise ShardError(
            f"{path} has no plan (a merged data set has none); repair the data sets it was made of"
        )
    order = recipe["split_order"]
    splits = order if order == "source" else {name: recipe["splits"][name] for name in order}
    return ShardsConfig(
        kind="shards",
        source=manifest["source"],
        out=path,
        samples_per_shard=recipe["samples_per_shard"],
        seed=recipe["seed"],
        splits=splits,
        split_cell_deg=recipe["split_cell_deg"],
        # What was left out once is left out again; it was within its bound then.
        max_bad=_NO_BOUND,
    )


def _set_aside(path: Path, manifest: dict[str, Any], damaged: Sequence[str]) -> None:
    """Keep what describes the shards as they are, and make the data set look unfinished."""
    aside = path / SALVAGE
    lost = [name for name in _names(manifest) if read_record(path / f"{name}.tar") is None]
    own = _own_indices(path, manifest)
    with disk_errors(path):
        if aside.exists():
            # Of a salvage that was stopped after its last step but this one.
            shutil.rmtree(aside)
        aside.mkdir()
    if own:
        write_joined(aside / INDEX, own)
    else:
        link_or_copy(path / INDEX, aside / INDEX)
    if (path / SAMPLES).exists():
        link_or_copy(path / SAMPLES, aside / SAMPLES)
    write_atomic(aside / _SHARDS, to_json(sorted({*damaged, *lost})))
    link_or_copy(path / MANIFEST, aside / MANIFEST)
    with disk_errors(path):
        (path / MANIFEST).unlink()
        fsync_folder(path)


def _own_indices(path: Path, manifest: dict[str, Any]) -> list[ShardIndex]:
    """Those of the shards, where the joined one is damaged; none where it is not."""
    with contextlib.suppress(ShardError):
        if read_index(path / INDEX).digest == manifest["index_digest"]:
            return []
    try:
        own = [read_index(index_path(path / f"{name}.tar")) for name in _names(manifest)]
        for index, listed in zip(own, manifest["shards"], strict=True):
            if index.digest != listed["digest"]:
                raise ShardError(f"{listed['name']} has another one than the manifest's")
        return own
    except ShardError as error:
        raise ShardError(
            f"{path / INDEX} and the index of a shard are both damaged ({error}), so nobody knows "
            "where its parts lie: it can be made anew from the source only, by `python -m shards "
            f"repair {path}`"
        ) from error


def _names(manifest: dict[str, Any]) -> list[str]:
    return [f"{shard['split']}/{shard['name']}" for shard in manifest["shards"]]


def _salvage(config: ShardsConfig, manifest: dict[str, Any]) -> Repair:
    """Write the shards that were noted from what is left of them; those it has written are left."""
    aside = config.out / SALVAGE
    plan, recipe = load_plan(config.out / PLAN)
    dataset = Dataset(aside, root=str(config.out), verify=False)
    site = Site(config, _Remains(dataset), dict(dataset.own_modalities))
    planned = {shard.path: shard for shard in plan.shards}
    digests = dict(zip(_names(manifest), (s["digest"] for s in manifest["shards"]), strict=True))
    names: list[str] = json.loads((aside / _SHARDS).read_bytes())
    for name in names:
        refs = _refs(dataset, planned[name])
        if not _is_written(site, planned[name], refs, digests[name]):
            fill_shard(site, Task(planned[name], refs), lambda: None)
    finish_build(site, plan, recipe)
    with disk_errors(aside):
        shutil.rmtree(aside)
    # Made for the data set as it was, all of them.
    extras = sorted(str(p.relative_to(config.out)) for p in config.out.glob(f"{EXTRA}/*"))
    return Repair(names, extras, result_of(config.out, len(names), 0.0))


def _is_written(
    site: Site, shard: PlannedShard, refs: Sequence[SampleRef], old_digest: str
) -> bool:
    """Whether a salvage has written this shard already: by the old index it would seem all damage."""
    tar = site.tar(shard)
    index = committed(tar)
    if index is None or index.digest == old_digest or load_record(tar, index) is None:
        return False
    if index.parts != site.parts or not {*index.keys} <= {ref.key for ref in refs}:
        return False
    try:
        check_parts(tar, index)
    except (DamagedError, OSError):
        return False
    return True


def _refs(dataset: Dataset, shard: PlannedShard) -> list[SampleRef]:
    samples = dataset.shard_samples(shard.split, shard.name)
    return [SampleRef(dataset.keys[i], 0, i, None, None, 0) for i in samples]


class _Remains:
    """A damaged data set as a source: what can be read of each sample, the rest as faults."""

    name = "salvage"

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def rows(self) -> dict[str, Modality]:
        return dict(self._dataset.own_modalities)

    def fingerprint(self) -> str:
        return self._dataset.fingerprint

    def listing(self) -> object:
        raise ShardError("a salvage follows the plan that is there")

    def read(self, ref: SampleRef) -> Sample:
        """Raises SampleError when nothing of the sample is left."""
        parts: dict[str, Part] = {}
        faults: dict[str, str] = {}
        for name in self._dataset.own_modalities:
            try:
                parts |= self._dataset.read(ref.row, [name])
            except DamagedError as error:
                faults[name] = str(error)
        if not parts:
            raise SampleError("; ".join(faults.values()) or "it had no parts")
        return Sample(ref.key, parts, self._meta(ref.row), faults)

    @functools.cached_property
    def _table(self) -> Any:
        return samples_columns(self._dataset)

    def _meta(self, i: int) -> SampleMeta:
        try:
            return self._dataset.meta(i)
        except DamagedError:
            row = self._table.slice(i, 1).to_pylist()[0]
            transform = row["transform"]
            return SampleMeta(
                lon=row["lon"],
                lat=row["lat"],
                crs=row["crs"],
                transform=tuple(transform) if transform else None,
                times=dict(row["times"]),
                source=row["source"],
                cloud=row["cloud"],
                products=dict(row["products"]),
            )
