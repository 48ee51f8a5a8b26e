"""The reader: samples by number, any subset of their modalities, only the bytes that are asked for.

    ds = open_dataset("data/synthetic")
    for i in ds.select("train", require=["S2L2A"]):
        parts = ds.read(i, ["S2L2A", "LULC"])          # {"S2L2A": array (12, H, W), ...}

A data set exists when its manifest does. Samples are numbered in manifest order: by split, shard,
slot. Modalities added later (`extra/<name>`) are read by name like any other. A Dataset may be shared
by threads, forked workers and, by pickling, spawned ones.
"""

import bisect
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.registry import BandStatistics
from configs.schema.modality import Modality
from shards.codec import META_PART, decode_meta
from shards.errors import DamagedError, ShardError
from shards.index import ShardIndex, read_index
from shards.manifest import EXTRA, INDEX, MANIFEST, modalities_of, read_manifest
from shards.reading import TarFiles, Wanted, read_parts
from shards.sample import Part, SampleMeta
from shards.tar import BLOCK_BYTES


def open_dataset(path: str | Path, *, verify: bool = True) -> "Dataset":
    """Open a finished data set.

    With `verify`, every tar's size is compared with the index and the index with its digest.
    Raises ShardError when there is no manifest, or a file is missing, truncated or foreign.
    """
    return Dataset(Path(path), verify=verify)


@dataclass(frozen=True)
class _Store:
    """One index and the tars it points into, in manifest order."""

    index: ShardIndex
    tars: tuple[str, ...]
    tar_bytes: tuple[int, ...]


class Dataset:
    """A finished data set of N samples; use `open_dataset`.

    Attributes:
        path: its folder.
        manifest: what manifest.json says.
        fingerprint: hex digest of its content.
        modalities: the registry rows it was made with, in registry order, extras excluded.
        statistics: mean and deviation per band of each image, over the train split.
        class_counts: pixels per class value of each class map, int64 [num_classes], likewise.
        splits: the split of each sample, str [N].
        extras: names of the modalities added later.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path / MANIFEST)
        self.fingerprint: str = self.manifest["fingerprint"]
        self.modalities: dict[str, Modality] = modalities_of(self.manifest)
        self.statistics = {
            name: BandStatistics(tuple(s["mean"]), tuple(s["std"]))
            for name, s in self.manifest["statistics"].items()
        }
        self.class_counts = {
            name: np.array(counts, np.int64)
            for name, counts in self.manifest["class_counts"].items()
        }
        shards = self.manifest["shards"]
        self._shards: list[tuple[str, str]] = [(s["split"], s["name"]) for s in shards]
        self._starts = np.cumsum([0, *(s["num_samples"] for s in shards)])
        self.splits = np.repeat(
            np.array([split for split, _ in self._shards]), np.diff(self._starts)
        )
        self._bounds: list[int] = self._starts.tolist()
        self._files = TarFiles()
        self._stores: dict[str, tuple[_Store, int]] = {}
        self._extra_manifests: dict[str, dict[str, Any]] = {}
        self._own = self._add_store(path, self.manifest, verify)
        for manifest_path in sorted(path.glob(f"{EXTRA}/*/{MANIFEST}")):
            self._add_extra(manifest_path, verify)
        self.extras: tuple[str, ...] = tuple(self._extra_manifests)

    @property
    def num_samples(self) -> int:
        return int(self._starts[-1])

    @property
    def keys(self) -> Sequence[str]:
        return self._own.index.keys

    def present(self, name: str) -> np.ndarray:
        """Which samples have the modality or extra: bool [N]. Raises ShardError for other names."""
        store, p = self._find(name)
        return (store.index.present >> np.uint32(p) & np.uint32(1)).astype(bool)

    def select(self, split: str | None = None, require: Iterable[str] = ()) -> np.ndarray:
        """Samples of a split (None: of all) that have every required modality: int64, ascending.

        Raises ShardError for a split or a modality that the data set does not know.
        """
        chosen = np.ones(self.num_samples, bool)
        if split is not None:
            if split not in self.manifest["splits"]:
                raise ShardError(
                    f"{self.path} has no split {split!r}; it has "
                    f"{', '.join(self.manifest['splits'])}"
                )
            chosen &= self.splits == split
        for name in require:
            chosen &= self.present(name)
        return np.flatnonzero(chosen).astype(np.int64)

    def read(
        self, i: int, names: Iterable[str], into: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Part]:
        """The named parts of sample `i`, those it has; every other byte stays on disk.

        Arrays are writable and the caller's own. An array in `into`, such as a row of a batch, is
        filled in place where it has the part's type and shape. Raises DamagedError, naming the file,
        the offset and the sample, when bytes differ from their digest.
        """
        self._check_number(i)
        by_store: dict[int, tuple[_Store, list[tuple[int, str]]]] = {}
        for name in names:
            store, p = self._find(name)
            by_store.setdefault(id(store), (store, []))[1].append((p, name))
        parts: dict[str, Part] = {}
        for store, columns in by_store.values():
            parts |= self._read_store(store, i, columns, into or {})
        return parts

    def meta(self, i: int) -> SampleMeta:
        """Where and when sample `i` was seen. Raises DamagedError as `read` does."""
        self._check_number(i)
        column = self._own.index.parts.index(META_PART)
        found = self._read_store(self._own, i, [(column, META_PART)], {})[META_PART]
        assert isinstance(found, str)
        return decode_meta(found)

    def location(self, i: int) -> tuple[str, str, int]:
        """Split, shard and slot of sample `i`."""
        self._check_number(i)
        shard = self._shard_number(i)
        return (*self._shards[shard], int(i - self._starts[shard]))

    def extra_manifest(self, name: str) -> dict[str, Any]:
        """The manifest of an extra, its `info` included. Raises ShardError when there is none."""
        if name not in self._extra_manifests:
            raise ShardError(f"{self.path} has no extra {name!r}; it has {self.extras or 'none'}")
        return self._extra_manifests[name]

    @property
    def shards(self) -> Sequence[tuple[str, str]]:
        """(split, name) of every shard, in manifest order."""
        return self._shards

    def shard_samples(self, split: str, name: str) -> range:
        """The numbers of a shard's samples, in slot order. Raises ShardError for other shards."""
        if (split, name) not in self._shards:
            raise ShardError(f"{self.path} has no shard {split}/{name}")
        shard = self._shards.index((split, name))
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {self.num_samples} samples, {self.fingerprint})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(open_dataset, verify=False), (self.path,)

    def _add_store(self, folder: Path, manifest: dict[str, Any], verify: bool) -> _Store:
        index = read_index(folder / INDEX, verify=verify)
        counts = [s["num_samples"] for s in manifest["shards"]]
        if index.num_samples != self.num_samples or counts != np.diff(self._starts).tolist():
            raise ShardError(
                f"{folder}: index and manifest count different samples; run the same build again"
            )
        if verify:
            if index.digest != manifest["index_digest"]:
                raise ShardError(f"{folder / INDEX}: belongs to another manifest; build again")
            _check_sizes(folder, manifest)
        tars = tuple(str(folder / split / f"{name}.tar") for split, name in self._shards)
        store = _Store(index, tars, tuple(shard["tar_bytes"] for shard in manifest["shards"]))
        for p, part in enumerate(index.parts):
            if part != META_PART:
                self._stores[part.partition(".")[0]] = (store, p)
        return store

    def _add_extra(self, manifest_path: Path, verify: bool) -> None:
        manifest = read_manifest(manifest_path)
        if manifest["dataset"] != self.fingerprint:
            raise ShardError(
                f"{manifest_path.parent} was made for another data set ({manifest['dataset']}, "
                f"this is {self.fingerprint}); remove that folder and make it again"
            )
        self._add_store(manifest_path.parent, manifest, verify)
        self._extra_manifests[manifest_path.parent.name] = manifest

    def _find(self, name: str) -> tuple[_Store, int]:
        if name not in self._stores:
            raise ShardError(
                f"{self.path} holds no modality {name!r}; it holds {', '.join(self._stores)}"
            )
        return self._stores[name]

    def _shard_number(self, i: int) -> int:
        return bisect.bisect_right(self._bounds, i) - 1

    def _check_number(self, i: int) -> None:
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} of {self.num_samples}")

    def _read_store(
        self,
        store: _Store,
        i: int,
        columns: list[tuple[int, str]],
        into: Mapping[str, np.ndarray],
    ) -> dict[str, Part]:
        index, shard = store.index, self._shard_number(i)
        present, entries = int(index.present[i]), index.entries[i].tolist()
        wanted = []
        for p, name in sorted(columns):
            if present >> p & 1:
                block, size, digest = entries[p]
                wanted.append(Wanted(name, index.parts[p], block * BLOCK_BYTES, size, digest))
        path = store.tars[shard]
        try:
            return read_parts(self._files, path, store.tar_bytes[shard], wanted, into)
        except (DamagedError, OSError) as error:
            raise DamagedError(
                f"{path}, sample {self.keys[i]}: {error}; remove {Path(path).name} and its .idx "
                "and run the same build again: it makes the shard anew"
            ) from error


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    for shard in manifest["shards"]:
        tar = folder / shard["split"] / f"{shard['name']}.tar"
        found = tar.stat().st_size if tar.is_file() else None
        if found != shard["tar_bytes"]:
            state = "missing" if found is None else f"{found} bytes long"
            raise ShardError(
                f"{tar}: {state}, {shard['tar_bytes']} bytes expected; run the same build again: "
                "it makes this shard anew"
            )


def samples_table(dataset: Dataset) -> dict[str, list[Any]]:
    """The columns of samples.parquet. Raises ShardError when it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = dataset.path / "samples.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path}: {error}; remove it and run the same build again") from error
    return table.to_pydict() | {"parts": json.loads((table.schema.metadata or {})[b"parts"])}
