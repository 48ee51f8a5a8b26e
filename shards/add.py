"""Add modalities of another source to a finished data set, sample by sample, by key.

    python -m shards add-modality DIR --config configs/shards/geotiff.yaml source.path=NEW

Shards of the new modality have the numbers and slots of the old ones; a sample that the source lacks,
or cannot give, or shows at another place, has it missing. The old shards are not touched. Stopped, the
same command goes on.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import ShardsConfig
from shards.dataset import Dataset
from shards.errors import ShardError
from shards.extra import ExtraWriter, hold_extra
from shards.fill import read_sample
from shards.progress import Progress
from shards.record import Fault
from shards.sample import Part, Sample
from shards.sources import SampleRef, Source, open_source
from shards.sources.base import TAR, refs_of
from shards.sources.place import contradiction, size_of


@dataclass(frozen=True)
class Added:
    """What one modality got: how many samples have it, and what was left out."""

    modality: str
    num_present: int
    num_samples: int
    faults: list[Fault]


def add_modalities(
    dataset: Dataset, config: ShardsConfig, names: Sequence[str] = (), *, quiet: bool = False
) -> list[Added]:
    """Add what the source of `config` has and the data set lacks, or the `names` of it.

    Raises ShardError when there is nothing to add, no key is known to both, more than `max_bad` parts
    are unusable, or another process adds the same.
    """
    source = open_source(config.source)
    wanted = names or [n for n in source.rows if n not in dataset.own_modalities]
    unknown = [name for name in wanted if name not in source.rows]
    if unknown or not wanted:
        raise ShardError(
            f"the source has {', '.join(source.rows)}; the data set has had "
            f"{', '.join(dataset.own_modalities)} since it was built: there is no "
            f"{', '.join(unknown) or 'other modality'} to add"
        )
    refs = _matched(dataset, source)
    info = {"source": source.name, "fingerprint": source.fingerprint()}
    writers = [ExtraWriter(dataset, name, info, source.rows[name]) for name in wanted]
    with contextlib.ExitStack() as held:
        for name in wanted:
            if not held.enter_context(hold_extra(dataset, name)):
                raise ShardError(
                    f"another process is adding {name} to {dataset.path}; wait for it or stop it"
                )
        return _fill(
            dataset,
            source,
            refs,
            writers,
            config.max_bad,
            Progress(dataset.num_samples, quiet=quiet),
        )


def _fill(
    dataset: Dataset,
    source: Source,
    refs: Sequence[SampleRef | None],
    writers: list[ExtraWriter],
    max_bad: int,
    progress: Progress,
) -> list[Added]:
    """Write what is missing, shard by shard, and commit."""
    done = {writer.name: writer.done_shards() for writer in writers}
    # Of earlier runs too: `max_bad` bounds the whole addition, however often it was stopped.
    faults = dict.fromkeys(fault for writer in writers for fault in writer.faults())
    with progress:
        for split, name in dataset.shards:
            shard = f"{split}/{name}"
            due = [w for w in writers if shard not in done[w.name]]
            samples = dataset.shard_samples(split, name)
            if due:
                columns, found = _read(dataset, source, {i: refs[i] for i in samples}, due)
                faults |= dict.fromkeys(found)
                if len(faults) > max_bad:
                    raise ShardError(
                        f"more than max_bad={max_bad} parts are unusable, the last: "
                        f"{list(faults)[-1]}; allow more with max_bad=N; finished shards are kept"
                    )
                for writer in due:
                    writer.write_shard(shard, columns[writer.name], _faults_of(writer.name, found))
            progress.advance(len(samples), 0)
    return [
        Added(w.name, w.commit()["num_present"], dataset.num_samples, _faults_of(w.name, faults))
        for w in writers
    ]


def _faults_of(name: str, faults: Iterable[Fault]) -> list[Fault]:
    """Those of one modality, of samples that were unusable as a whole, and of damaged tars."""
    return [fault for fault in faults if fault.part in ("", TAR, name)]


def _matched(dataset: Dataset, source: Source) -> list[SampleRef | None]:
    """The source's row for each sample of the data set, by key."""
    import pyarrow as pa
    import pyarrow.compute

    listing = source.listing()
    index_in = pyarrow.compute.index_in  # type: ignore[attr-defined]
    keys = pa.array(list(dataset.keys), pa.large_string())
    found = index_in(keys, value_set=listing.column("key").combine_chunks())
    known = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    if not len(known):
        raise ShardError(
            f"no key of the source is one of {dataset.path}: such as "
            f"{listing.column('key')[0].as_py()!r} there and {dataset.keys[0]!r} here"
        )
    rows = found.take(pa.array(known))
    refs: list[SampleRef | None] = [None] * dataset.num_samples
    for i, ref in zip(known.tolist(), refs_of(listing.take(rows)), strict=True):
        refs[i] = ref
    return refs


def _read(
    dataset: Dataset,
    source: Source,
    refs: Mapping[int, SampleRef | None],
    writers: Sequence[ExtraWriter],
) -> tuple[dict[str, list[Part | None]], list[Fault]]:
    """One column of parts per writer, in slot order, and what is unusable.

    `refs` are the source's rows by the numbers of the data set's samples.
    """
    columns: dict[str, list[Part | None]] = {writer.name: [] for writer in writers}
    faults: list[Fault] = []
    for i, ref in refs.items():
        sample = read_sample(source, source.rows, ref, faults) if ref else None
        elsewhere = sample and _elsewhere(dataset, i, sample, source)
        if sample and elsewhere:
            faults.append(Fault(sample.key, "", f"not the place of the data set: {elsewhere}"))
            sample = None
        for name, column in columns.items():
            column.append(sample.parts.get(name) if sample else None)
        told = sample.faults if sample else {}
        faults += (Fault(ref.key, n, told[n]) for n in (*columns, TAR) if ref and n in told)
    return columns, faults


def _elsewhere(dataset: Dataset, i: int, sample: Sample, source: Source) -> str | None:
    """How the place of a sample to add contradicts that of the data set's sample `i`, if it does."""
    rows = dataset.own_modalities
    maps = {name: dataset.extents(i, [name]) for name, row in rows.items() if row.is_map}
    num_bytes = {name: extents[0][2] for name, extents in maps.items() if extents}
    size = size_of(sample.parts, source.rows)
    if size is None or not num_bytes:
        # Labels and texts have no size.
        return contradiction(dataset.meta(i), sample.meta, (1, 1), (1, 1))
    # All maps of a sample have one size: the smallest costs least to read.
    smallest = min(num_bytes, key=lambda name: num_bytes[name])
    here = size_of(dataset.read(i, [smallest]), rows)
    return contradiction(dataset.meta(i), sample.meta, here or size, size)
