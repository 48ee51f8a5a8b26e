"""Several data sets read as one: their samples numbered one after the other.

A modality that one of them lacks is missing in its samples, like any other missing part. Where two
hold the same modality, their rows must agree in everything that decides values.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from configs.registry import BandStatistics
from configs.schema.data import DataConfig, SampleFilter
from configs.schema.modality import Modality
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.extra import made_by
from shards.files import finite
from shards.sample import Part, SampleMeta


class MixedDataset:
    """Data sets one after the other, with what training asks of a `Dataset`.

    `bounds` are the numbers of the first sample of each, and one past the last. Raises ShardError
    when two contradict each other about a modality.
    """

    def __init__(self, members: Sequence[Dataset]) -> None:
        self.members = tuple(members)
        self.bounds: list[int] = np.cumsum([0, *(m.num_samples for m in members)]).tolist()
        self.modalities = union([(m.path, m.modalities) for m in members])
        self.extras = tuple(dict.fromkeys(name for m in members for name in m.extras))

    @property
    def path(self) -> Path:
        """The first member's folder."""
        return self.members[0].path

    @property
    def num_samples(self) -> int:
        return self.bounds[-1]

    @property
    def fingerprint(self) -> str:
        """Hex digest over the members' fingerprints, in order."""
        return mixed_fingerprint([m.fingerprint for m in self.members])

    @property
    def statistics(self) -> dict[str, BandStatistics]:
        """Mean and deviation over the members' pixels taken together."""
        found = {}
        for name in self.modalities:
            known = [m.sums[name] for m in self.members if name in m.sums]
            if known:
                found[name] = _pooled(known)
        return found

    @property
    def class_counts(self) -> dict[str, np.ndarray]:
        counts: dict[str, np.ndarray] = {}
        for member in self.members:
            for name, values in member.class_counts.items():
                counts[name] = counts[name] + values if name in counts else values
        return counts

    def present(self, name: str) -> np.ndarray:
        """Which samples have the modality or extra: bool [N]. Raises ShardError if none knows it."""
        knowing = [name in m.modalities or name in m.extras for m in self.members]
        if not any(knowing):
            self.members[0].present(name)
        return np.concatenate(
            [
                m.present(name) if knows else np.zeros(m.num_samples, bool)
                for m, knows in zip(self.members, knowing, strict=True)
            ]
        )

    def select(
        self,
        split: str | None = None,
        require: Iterable[str] = (),
        where: SampleFilter | None = None,
        splitting: str = "",
    ) -> np.ndarray:
        """As `Dataset.select`; members without the split or a required modality add no sample.

        Raises ShardError for a split or modality that no member knows.
        """
        where = where or SampleFilter()
        names = {*require, *where.require}
        for name in {*names, *where.any_of}:
            self.present(name)
        chosen = []
        for start, member in zip(self.bounds, self.members, strict=False):
            known = {*member.modalities, *member.extras}
            if not names <= known or (
                split is not None and split not in member.split_names(splitting)
            ):
                continue
            there = tuple(name for name in where.any_of if name in known)
            if where.any_of and not there:
                continue
            own = where.model_copy(update={"any_of": there})
            chosen.append(start + member.select(split, names, own, splitting))
        if not chosen and split is not None:
            self.members[0].select(split, (), None, splitting)
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def read(
        self, i: int, names: Iterable[str], into: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Part]:
        """The named parts of sample `i`, those it has. Raises DamagedError."""
        member, number = self._find(i)
        known = [n for n in names if n in member.modalities or n in member.extras]
        return member.read(number, known, into)

    def meta(self, i: int) -> SampleMeta:
        member, number = self._find(i)
        return member.meta(number)

    def locate(self, i: int) -> tuple[str, str]:
        """A sample's key and the path of its shard, for messages and logs."""
        member, number = self._find(i)
        return member.locate(number)

    def key(self, i: int) -> str:
        """The key of a sample; unique within its member only."""
        member, number = self._find(i)
        return member.keys[number]

    def extra_manifest(self, name: str) -> dict[str, Any]:
        """The extra's manifest in the first member that has it.

        Raises ShardError when none has it, or two made it differently.
        """
        found = [m.extra_manifest(name) for m in self.members if name in m.extras]
        if not found:
            self.members[0].extra_manifest(name)
        if any(made_by(other["info"]) != made_by(found[0]["info"]) for other in found[1:]):
            raise ShardError(
                f"the extra {name} was made differently in the data sets that are mixed; make it "
                "with the same tokenizer in all of them"
            )
        return found[0]

    def damaged_shards(self) -> list[str]:
        """What is wrong with the files of any member; see `Dataset.damaged_shards`."""
        return [line for member in self.members for line in member.damaged_shards()]

    def __len__(self) -> int:
        return self.num_samples

    def _find(self, i: int) -> tuple[Dataset, int]:
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} of {self.num_samples}")
        m = int(np.searchsorted(self.bounds, i, side="right")) - 1
        return self.members[m], i - self.bounds[m]


def mixed_fingerprint(fingerprints: Sequence[str]) -> str:
    """Hex digest of data sets that are read one after the other."""
    return xxhash.xxh3_128_hexdigest(" ".join(fingerprints).encode())


def union(listed: Sequence[tuple[Path, Mapping[str, Modality]]]) -> dict[str, Modality]:
    """The rows of several data sets, each named by its folder, in registry order.

    Raises ShardError when two contradict each other.
    """
    rows: dict[str, Modality] = {}
    for path, own in listed:
        for name, row in own.items():
            if finite(rows.setdefault(name, row).content()) != finite(row.content()):
                first = next(other for other, known in listed if name in known)
                raise ShardError(
                    f"{path} stores {name} differently from {first}; build it anew with today's "
                    "registry before mixing them"
                )
    return dict(sorted(rows.items(), key=lambda item: item[1].order))


def _pooled(tables: Sequence[Mapping[str, Any]]) -> BandStatistics:
    """Mean and deviation of the union of disjoint sets of values, per band."""
    counts = np.array([table["count"] for table in tables], np.float64)
    means = np.array([table["mean"] for table in tables], np.float64)
    variances = np.array([table["std"] for table in tables], np.float64) ** 2
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return BandStatistics(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))


SampleSet = Dataset | MixedDataset
"""What training reads from."""


def open_data(config: DataConfig, *, verify: bool = True) -> SampleSet:
    """The data set of a configuration, or its mixture of several. Raises ShardError."""
    paths = [config.shards, *(member.shards for member in config.mix)]
    members = [
        open_dataset(path, verify=verify, cache=config.cache, cache_gb=config.cache_gb)
        for path in paths
    ]
    return MixedDataset(members) if config.mix else members[0]
