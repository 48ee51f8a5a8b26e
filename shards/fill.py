"""One task of a build: read the samples of a shard, write and commit it with its record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import ShardsConfig
from configs.schema.modality import Modality
from shards.codec import stored_parts
from shards.encoding import Encoded, Encoder
from shards.errors import SampleError, ShardError
from shards.finish import QUARANTINE
from shards.plan import PlannedShard
from shards.record import Fault, encode_record
from shards.sample import Sample, SampleMeta, checked
from shards.schedule import Idle
from shards.sources import SampleRef, Source, open_source
from shards.stats import Statistics
from shards.writer import ShardWriter

_NUM_NAMED = 5


@dataclass(frozen=True)
class Task:
    """One shard to write; `num_bad` is how much had been left out when it was handed out."""

    shard: PlannedShard
    refs: Sequence[SampleRef]
    num_bad: int = 0


@dataclass(frozen=True)
class Done:
    """One shard written. `samples` and `num_bytes` were not yet counted by the progress line."""

    shard: PlannedShard
    faults: list[Fault]
    num_samples: int
    num_bytes: int


class TooManyBad(ShardError):
    """A shard met more that is unusable than the build may still leave out."""

    def __init__(self, message: str, offenders: Sequence[Fault]) -> None:
        # Both in `args`: the error crosses processes by pickle.
        super().__init__(message, offenders)
        self.offenders = offenders

    def __str__(self) -> str:
        return self.args[0]


@dataclass
class Site:
    """What every rank needs: where to write, what to read, and the rows it is stored by.

    `report` counts samples and bytes as they are written, on the rank that shows the progress.
    `threads` encode; 0 is this process's share of the machine.
    """

    config: ShardsConfig
    source: Source
    rows: dict[str, Modality]
    report: Callable[[int, int], None] | None = None
    threads: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        return stored_parts(self.rows)

    def tar(self, shard: PlannedShard) -> Path:
        return self.config.out / f"{shard.path}.tar"


def open_site(config: ShardsConfig) -> Site:
    source = open_source(config.source)
    return Site(config, source, source.rows)


def fill_shard(site: Site, task: Task, idle: Idle) -> Done:
    """Write and commit one shard, with its record: statistics, samples' meta data, what is left out."""
    statistics = Statistics(site.rows)
    faults: list[Fault] = []
    metas: list[SampleMeta] = []
    unreported = [0, 0]  # samples, bytes
    with (
        ShardWriter(site.tar(task.shard), site.parts) as writer,
        Encoder(site.rows, site.threads) as encoder,
    ):

        def store(due: Iterable[Encoded]) -> None:
            for encoded in due:
                added = _store(writer, encoded, faults)
                if added:
                    # Here, in slot order: sums of floats depend on the order.
                    statistics.merge([encoded.sums])
                    metas.append(encoded.sample.meta)
                    if site.report:
                        site.report(1, added)
                    else:
                        unreported[0] += 1
                        unreported[1] += added
                if len(faults) + task.num_bad > site.config.max_bad:
                    raise too_many(site.config, [], faults)

        for ref in task.refs:
            sample = read_sample(site.source, site.rows, ref, faults)
            if sample:
                store(encoder.add(sample))
            elif len(faults) + task.num_bad > site.config.max_bad:
                raise too_many(site.config, [], faults)
            idle()
        store(encoder.drain())
        # Samples are read ahead of those that are stored; what is kept must not show how far.
        slots = {ref.key: slot for slot, ref in enumerate(task.refs)}
        faults.sort(key=lambda fault: slots[fault.key])
        index = writer.close()
        cell_deg = site.config.split_cell_deg
        writer.commit(encode_record(index, metas, statistics.dump(), faults, cell_deg))
    return Done(task.shard, faults, *unreported)


def _store(writer: ShardWriter, encoded: Encoded, faults: list[Fault]) -> int:
    """Append a sample; the bytes it takes, or 0 after adding it to `faults`."""
    sample = encoded.sample
    try:
        if encoded.error:
            raise encoded.error
        added = writer.add(sample.key, encoded.members)
    except SampleError as error:
        faults.append(Fault(sample.key, "", str(error)))
        return 0
    faults += (Fault(sample.key, part, reason) for part, reason in sample.faults.items())
    return added


def read_sample(
    source: Source, rows: Mapping[str, Modality], ref: SampleRef, faults: list[Fault]
) -> Sample | None:
    """One sample with parts as the rows say, or None after adding it to `faults`."""
    sample, problem = None, ""
    for _ in range(2):
        # A second try costs little and saves samples from a file system's hiccups.
        try:
            found = checked(source.read(ref), rows)
        except (SampleError, OSError) as error:
            problem = str(error)
            continue
        if sample is None or len(found.faults) < len(sample.faults):
            sample = found
        if not sample.faults:
            break
    if sample is None:
        faults.append(Fault(ref.key, "", problem))
    if sample and sample.key != ref.key:
        raise ShardError(f"source {source.name} gave {sample.key!r} for {ref.key!r}")
    return sample


def too_many(config: ShardsConfig, bad: Sequence[Fault], offenders: Sequence[Fault]) -> TooManyBad:
    """The error for more faults than allowed; `offenders` are those of the shard that is dropped."""
    named = [f"  {fault}" for fault in [*bad, *offenders]]
    return TooManyBad(
        f"more than max_bad={config.max_bad} samples and parts are unusable, among them\n"
        + "\n".join(named[-_NUM_NAMED:])
        + f"\n(all known ones: {config.out / QUARANTINE}). Repair or remove them and build "
        "into an empty folder, or allow more with max_bad=N; finished shards are kept",
        offenders,
    )
