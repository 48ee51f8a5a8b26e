"""The samples that every contender gets: eight modalities at TerraMesh's size, 264 px of 10 m.

A few distinct samples of the synthetic Earth are made once and lie in the benchmark's folder, one
array [D, C, H, W] a modality. They repeat under different keys; every process maps the same files.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.registry import in_registry_order
from configs.schema import SyntheticSourceConfig
from shards.sample import Sample, SampleMeta
from shards.sources.synthetic import SyntheticSource

NAMES = in_registry_order(("S2L1C", "S2L2A", "S2RGB", "S1GRD", "DEM", "LULC", "NDVI", "CHM"))
TILE_PX = 264
BATCH_SIZE = 16
SAMPLES_PER_SHARD = 64
Numbered = tuple[int, Mapping[str, np.ndarray]]
"""A decoded sample: its number and its arrays by modality."""


def source_config(num_samples: int) -> SyntheticSourceConfig:
    """Samples that have all eight modalities."""
    return SyntheticSourceConfig(
        num_samples=num_samples, tile_px=TILE_PX, missing=0, modalities=NAMES
    )


@dataclass(frozen=True)
class Workload:
    """`num_samples` samples in `folder`; picklable, the arrays are mapped where they are used."""

    folder: Path
    num_samples: int
    num_distinct: int

    @property
    def distinct(self) -> Path:
        """Where the distinct samples lie, named by what they are made from."""
        return self.folder / f"samples-{_digest(self.num_distinct)}"

    @property
    def layout(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape (C, H, W) of each modality."""
        return {name: (rows.dtype, rows.shape[1:]) for name, rows in self._arrays.items()}

    @property
    def sample_bytes(self) -> int:
        """Bytes of all arrays of a sample."""
        return sum(rows[0].nbytes for rows in self._arrays.values())

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """The arrays (C, H, W) of sample `i`, by modality."""
        return {name: rows[i % self.num_distinct] for name, rows in self._arrays.items()}

    def meta(self, i: int) -> SampleMeta:
        return _load_metas(self.distinct)[i % self.num_distinct]

    def meta_json(self, i: int) -> dict[str, object]:
        """The same meta data for contenders that store JSON."""
        return dataclasses.asdict(self.meta(i))

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        return _load_arrays(self.distinct)


def key_of(i: int) -> str:
    return f"syn{i:09d}"


def number_of(key: str) -> int:
    return int(key.removeprefix("syn"))


def make_samples(workload: Workload) -> None:
    """Make the distinct samples, on all cores, unless they are there."""
    if workload.distinct.exists():
        return
    cores = len(os.sched_getaffinity(0))
    temporary = workload.distinct.with_suffix(".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    rows: dict[str, np.ndarray] = {}
    metas = []
    make = functools.partial(_make_sample, workload.num_distinct)
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        for i, sample in enumerate(pool.map(make, range(workload.num_distinct))):
            for name, part in sample.parts.items():
                assert isinstance(part, np.ndarray)
                if name not in rows:
                    rows[name] = np.lib.format.open_memmap(
                        temporary / f"{name}.npy",
                        mode="w+",
                        dtype=part.dtype,
                        shape=(workload.num_distinct, *part.shape),
                    )
                rows[name][i] = part
            metas.append(dataclasses.asdict(sample.meta))
    (temporary / "metas.json").write_text(json.dumps(metas))
    for array in rows.values():
        array.flush()  # type: ignore[attr-defined]
    temporary.rename(workload.distinct)


class Batch:
    """Preallocated arrays [B, C, H, W] of some modalities, which every reader fills again and again."""

    def __init__(self, workload: Workload, names: Iterable[str]) -> None:
        self.arrays = {}
        for name in names:
            dtype, shape = workload.layout[name]
            # Written once here, so that no contender pays for the first touch of memory.
            self.arrays[name] = np.full((BATCH_SIZE, *shape), 1, dtype)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.arrays)


def fill(batch: Batch, samples: Iterable[Numbered]) -> Iterator[list[int]]:
    """Copy decoded samples into the batch; yields the samples' numbers whenever it is full."""
    numbers: list[int] = []
    for number, parts in samples:
        for name, rows in batch.arrays.items():
            rows[len(numbers)] = parts[name]
        numbers.append(number)
        if len(numbers) == BATCH_SIZE:
            yield numbers
            numbers = []
    if numbers:
        yield numbers


def make_durable(folder: Path) -> None:
    """Call fsync on every file and folder: what writers that do not do it themselves owe."""
    for path in (folder, *folder.rglob("*")):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _make_sample(num_samples: int, i: int) -> Sample:
    return SyntheticSource(source_config(num_samples)).sample(i)


@functools.cache
def _digest(num_distinct: int) -> str:
    fingerprint = SyntheticSource(source_config(num_distinct)).fingerprint()
    return hashlib.blake2b(fingerprint.encode(), digest_size=8).hexdigest()


@functools.cache
def _load_arrays(folder: Path) -> dict[str, np.ndarray]:
    # Copy on write: the pages are shared between processes, and torch takes no read-only arrays.
    return {name: np.load(folder / f"{name}.npy", mmap_mode="c").view(np.ndarray) for name in NAMES}


@functools.cache
def _load_metas(folder: Path) -> list[SampleMeta]:
    values = json.loads((folder / "metas.json").read_text())
    return [SampleMeta(**v | {"transform": tuple(v["transform"])}) for v in values]
