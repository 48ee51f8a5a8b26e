"""One task of a build: read the samples of a shard, write and commit it with its record.

The record, `shard-000000.json`, keeps what was learned while the pixels were in memory: sums for the
statistics, the samples' meta data, and what was left out. A restart never reads pixels twice.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.registry import modality
from configs.schema import ShardsConfig
from configs.schema.modality import Modality
from shards.codec import META_PART, encode_meta, encode_part, part_name
from shards.errors import SampleError, ShardError
from shards.files import to_json
from shards.finish import QUARANTINE
from shards.index import committed
from shards.plan import PlannedShard
from shards.sample import Sample, check_sample
from shards.schedule import Idle
from shards.sources import SampleRef, Source, open_source
from shards.stats import Statistics
from shards.writer import ShardWriter

_NUM_NAMED = 5


@dataclass(frozen=True)
class Task:
    """One shard to write; `num_bad` is how many samples were quarantined when it was handed out."""

    shard: PlannedShard
    num_bad: int = 0


@dataclass(frozen=True)
class Done:
    """One shard written. `samples` and `num_bytes` were not yet counted by the progress line."""

    shard: PlannedShard
    quarantined: list[dict[str, str]]
    num_samples: int
    num_bytes: int


class TooManyBad(ShardError):
    """A shard met more unusable samples than the build may still leave out."""

    def __init__(self, message: str, offenders: list[dict[str, str]]) -> None:
        # Both in `args`: the error crosses processes by pickle.
        super().__init__(message, offenders)
        self.offenders = offenders

    def __str__(self) -> str:
        return self.args[0]


@dataclass
class Site:
    """What every rank needs: where to write, what to read, and the rows it is stored by.

    `report` counts samples and bytes as they are written, on the rank that shows the progress.
    """

    config: ShardsConfig
    source: Source
    rows: dict[str, Modality]
    report: Callable[[int, int], None] | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return (*(part_name(row) for row in self.rows.values()), META_PART)

    def tar(self, shard: PlannedShard) -> Path:
        return self.config.out / f"{shard.path}.tar"


def open_site(config: ShardsConfig) -> Site:
    source = open_source(config.source)
    return Site(config, source, {name: modality(name) for name in source.modalities})


def fill_shard(site: Site, task: Task, idle: Idle) -> Done:
    """Write and commit one shard, with its record: statistics, samples' meta data, quarantine."""
    statistics = Statistics(site.rows)
    quarantined: list[dict[str, str]] = []
    metas = []
    unreported = [0, 0]
    with ShardWriter(site.tar(task.shard), site.parts) as writer:
        for ref in task.shard.refs:
            sample = _read(site, ref, quarantined)
            added = _store(writer, site, sample, quarantined) if sample else 0
            if len(quarantined) + task.num_bad > site.config.max_bad:
                raise too_many(site.config, [], quarantined)
            if sample and added:
                statistics.add(sample.parts)
                metas.append(dataclasses.asdict(sample.meta))
                if site.report:
                    site.report(1, added)
                else:
                    unreported = [unreported[0] + 1, unreported[1] + added]
            idle()
        index = writer.close()
        record = {
            "digest": index.digest,
            "statistics": statistics.dump(),
            "quarantined": quarantined,
            "samples": metas,
        }
        writer.commit(to_json(record))
    return Done(task.shard, quarantined, *unreported)


def _store(
    writer: ShardWriter, site: Site, sample: Sample, quarantined: list[dict[str, str]]
) -> int:
    """Append a sample; the bytes it takes, or 0 after adding it to `quarantined`."""
    try:
        members = {
            part_name(site.rows[name]): encode_part(part, site.rows[name])
            for name, part in sample.parts.items()
        }
        return writer.add(sample.key, members | {META_PART: encode_meta(sample.meta)})
    except SampleError as error:
        quarantined.append({"key": sample.key, "reason": str(error)})
        return 0


def _read(site: Site, ref: SampleRef, quarantined: list[dict[str, str]]) -> Sample | None:
    """One sample, or None after adding it to `quarantined`."""
    for attempt in (1, 2):
        try:
            sample = site.source.read(ref)
            check_sample(sample, site.rows)
        except (SampleError, OSError) as error:
            # A second try costs little and saves samples from a file system's hiccups.
            if attempt == 2:
                quarantined.append({"key": ref.key, "reason": str(error)})
        else:
            if sample.key != ref.key:
                raise ShardError(f"source {site.source.name} gave {sample.key!r} for {ref.key!r}")
            return sample
    return None


def read_record(tar: Path) -> dict[str, Any] | None:
    """The record of a committed shard; None when the shard is not there whole."""
    index = committed(tar)
    if index is None:
        return None
    try:
        record = json.loads(tar.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None
    return record if record.get("digest") == index.digest else None


def too_many(
    config: ShardsConfig, bad: list[dict[str, str]], offenders: list[dict[str, str]]
) -> TooManyBad:
    named = [f"  {b['key']}: {b['reason']}" for b in (bad + offenders)[-_NUM_NAMED:]]
    return TooManyBad(
        f"more than max_bad={config.max_bad} samples are unusable, among them\n"
        + "\n".join(named)
        + f"\n(all known ones: {config.out / QUARANTINE}). Repair or remove them and build "
        "into an empty folder, or allow more with max_bad=N; finished shards are kept",
        offenders,
    )
