"""Our shards as a contender: everything here that calls `shards` to write or read.

A data set to read is made by the real build over a source that hands out the workload's samples, so
this leans on few things only: `build(config)`, `SyntheticSource.sample(i)`, the rows in
`modality_registry()`, `ShardWriter` with `Encoder`, and `open_dataset(...).read(i, names, into)`.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks._workload import (
    BATCH_SIZE,
    NAMES,
    SAMPLES_PER_SHARD,
    Batch,
    Workload,
    key_of,
    number_of,
    source_config,
)
from configs.registry import modality, modality_registry
from configs.schema import ShardsConfig
from configs.schema.modality import Codec, Modality
from shards.build import build
from shards.codec import META_PART, decode_part, encode_part, part_name
from shards.dataset import Dataset, open_dataset
from shards.encoding import Encoded, Encoder, own_threads
from shards.sample import Sample
from shards.sources.synthetic import SyntheticSource
from shards.writer import ShardWriter


def rows_of(codec: str) -> dict[str, Modality]:
    """The registry's rows with their own codecs (`registry`) or with the raw one (`npy`)."""
    rows = {name: modality(name) for name in NAMES}
    if codec == "registry":
        return rows
    return {n: row.model_copy(update={"codec": Codec(name="npy")}) for n, row in rows.items()}


def write(codec: str, threads: int, workload: Workload, out: Path) -> None:
    """Shards as a build writes them: encoded, indexed, with digests, durable, committed.

    As in a build, 0 threads are this process's share of the cores. Without the sums a build counts
    for its statistics, which no contender has.
    """
    rows = rows_of(codec)
    parts = (*(part_name(row) for row in rows.values()), META_PART)
    for number, start in enumerate(range(0, workload.num_samples, SAMPLES_PER_SHARD)):
        with (
            ShardWriter(out / "train" / f"shard-{number:06d}.tar", parts) as writer,
            Encoder(rows, threads, counts=False) as encoder,
        ):
            for i in range(start, min(start + SAMPLES_PER_SHARD, workload.num_samples)):
                _store(writer, encoder.add(_sample(workload, i)))
            _store(writer, encoder.drain())
            writer.commit()


def write_dataset(codec: str, workload: Workload, out: Path) -> None:
    """A finished data set: also checks every sample, counts statistics and writes a manifest."""
    config = ShardsConfig(
        kind="shards",
        source=source_config(workload.num_samples),
        out=out,
        samples_per_shard=SAMPLES_PER_SHARD,
        splits={"train": 1.0},
    )
    with _handing_out(workload), _rows_in_registry(codec):
        build(config, quiet=True)


def read_in_order(
    threads: int, workload: Workload, folder: Path, batch: Batch
) -> Iterator[list[int]]:
    """Every sample once, as they lie on disk; 0 threads are this process's share of the cores."""
    return _read(threads, folder, batch, np.arange(workload.num_samples))


def read_shuffled(
    threads: int, workload: Workload, folder: Path, batch: Batch
) -> Iterator[list[int]]:
    """Every sample once, in a random order over all shards."""
    order = np.random.default_rng(0).permutation(workload.num_samples)
    return _read(threads, folder, batch, order)


def member_name(name: str) -> str:
    """`S2L2A` -> `S2L2A.b2`: the member of a modality under the registry's codec."""
    return part_name(modality(name))


def encode(name: str, array: np.ndarray) -> bytes:
    """The bytes of one member under the registry's codec, for peers that store the same."""
    return b"".join(encode_part(array, modality(name)))


def decode(name: str, data: bytes) -> np.ndarray:
    """Undo `encode`."""
    part = decode_part(member_name(name).partition(".")[2], data)
    assert isinstance(part, np.ndarray)
    return part


def _sample(workload: Workload, i: int) -> Sample:
    return Sample(key_of(i), {**workload.arrays(i)}, workload.meta(i))


def _store(writer: ShardWriter, due: Iterable[Encoded]) -> None:
    for encoded in due:
        assert encoded.error is None
        writer.add(encoded.sample.key, encoded.members)


def _read(threads: int, folder: Path, batch: Batch, order: np.ndarray) -> Iterator[list[int]]:
    """As the training loader reads: samples of a batch on threads, each into its row."""
    dataset, numbers = _open(folder)
    names = batch.names
    slots = [{name: rows[b] for name, rows in batch.arrays.items()} for b in range(BATCH_SIZE)]

    def read(slot: dict[str, np.ndarray], i: int) -> None:
        dataset.read(i, names, slot)

    with ThreadPoolExecutor(threads or own_threads()) as pool:
        run = map if threads == 1 else pool.map
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE].tolist()
            for _ in run(read, slots, chosen):
                pass
            yield [numbers[i] for i in chosen]


@functools.cache
def _open(folder: Path) -> tuple[Dataset, list[int]]:
    dataset = open_dataset(folder)
    return dataset, [number_of(key) for key in dataset.keys]


@contextlib.contextmanager
def _handing_out(workload: Workload) -> Iterator[None]:
    # Generating takes much longer than writing, so the generator gives what it gave before.
    def sample(_: SyntheticSource, i: int) -> Sample:
        return _sample(workload, i)

    with mock.patch.object(SyntheticSource, "sample", sample):
        yield


@contextlib.contextmanager
def _rows_in_registry(codec: str) -> Iterator[None]:
    with mock.patch.dict(modality_registry(), rows_of(codec)):
        yield
