"""Make the damaged shards of a data set whole again, and leave the others alone.

From the source, which gives back the very bytes, extras included in what stays valid; or, where the
source is gone, by salvage: every part that still has its digest is kept in its slot, every other one
becomes a missing one. Salvage makes another data set (another fingerprint), and says what was lost.
"""

from dataclasses import dataclass
from pathlib import Path

from configs.schema import ShardsConfig
from configs.schema.modality import Modality
from shards.build import BuildResult, build, finish_build, load_or_make_plan, result_of
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, SampleError, ShardError
from shards.fill import Site, Task, fill_shard, open_site
from shards.filters import samples_columns
from shards.index import index_path
from shards.manifest import EXTRA, MANIFEST, PLAN, read_manifest
from shards.plan import PlannedShard, load_plan
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef
from shards.verify import verify
from shards.writer import RECORD_SUFFIX

_NO_BOUND = 1 << 62


@dataclass(frozen=True)
class Repair:
    """What was done: shards made anew, extras with damage of their own, and the resulting data set."""

    shards: list[str]
    extras: list[str]
    result: BuildResult


def repair(path: Path, *, salvage: bool = False) -> Repair:
    """Find damaged shards (to the level of digests) and make them anew.

    Raises ShardError when the data set has no plan, the source cannot be read (its shards are then
    still as they were), or gives other samples than before.
    """
    manifest = read_manifest(path / MANIFEST)
    found = damaged_shards(path)
    extras = sorted(name for name in found if name.startswith(f"{EXTRA}/"))
    own = sorted(name for name in found if not name.startswith(f"{EXTRA}/"))
    config = _config_of(path, manifest)
    if not own:
        return Repair([], extras, result_of(config, 0, 0.0))
    if salvage:
        return Repair(own, extras, _salvage(config, own))
    # Opened and listed before anything is removed: without its source nothing would come back.
    load_or_make_plan(config, open_site(config).source)
    for name in own:
        tar = path / f"{name}.tar"
        for file in (tar, index_path(tar), tar.with_suffix(RECORD_SUFFIX)):
            file.unlink(missing_ok=True)
    result = build(config, quiet=True)
    assert result is not None
    return Repair(own, extras, result)


def damaged_shards(path: Path) -> set[str]:
    """Shards whose files are not what the manifest says, as `train/shard-000000`, extras included."""
    files = [Path(finding.where) for finding in verify(path, "digests").errors]
    return {
        str(file.relative_to(path).with_suffix(""))
        for file in files
        if file.suffix in (".tar", ".idx")
    }


def _config_of(path: Path, manifest: dict) -> ShardsConfig:
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


def _salvage(config: ShardsConfig, names: list[str]) -> BuildResult:
    plan, recipe = load_plan(config.out / PLAN)
    dataset = open_dataset(config.out, verify=False)
    site = Site(config, _Remains(dataset), dict(dataset.modalities))
    shards = {shard.path: shard for shard in plan.shards}
    for name in names:
        fill_shard(site, Task(shards[name], _refs(dataset, shards[name])), lambda: None)
    finish_build(site, plan, recipe)
    return result_of(config, len(names), 0.0)


def _refs(dataset: Dataset, shard: PlannedShard) -> list[SampleRef]:
    samples = dataset.shard_samples(shard.split, shard.name)
    return [SampleRef(dataset.keys[i], 0, i, None, None, 0) for i in samples]


class _Remains:
    """A damaged data set as a source: what can be read of each sample, the rest as faults."""

    name = "salvage"

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._table = samples_columns(dataset)

    @property
    def rows(self) -> dict[str, Modality]:
        return dict(self._dataset.modalities)

    def fingerprint(self) -> str:
        return self._dataset.fingerprint

    def listing(self) -> object:
        raise ShardError("a salvage follows the plan that is there")

    def read(self, ref: SampleRef) -> Sample:
        """Raises SampleError when nothing of the sample is left."""
        parts: dict[str, Part] = {}
        faults: dict[str, str] = {}
        for name in self._dataset.modalities:
            try:
                parts |= self._dataset.read(ref.row, [name])
            except DamagedError as error:
                faults[name] = str(error)
        if not parts:
            raise SampleError("; ".join(faults.values()) or "it had no parts")
        return Sample(ref.key, parts, self._meta(ref.row), faults)

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
