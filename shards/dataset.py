"""The reader: samples by number, any subset of their modalities, only the bytes that are asked for.

    ds = open_dataset("data/synthetic")
    for i in ds.select("train", require=["S2L2A"]):
        parts = ds.read(i, ["S2L2A", "LULC"])          # {"S2L2A": array (12, H, W), ...}

A data set exists when its manifest does. Samples are numbered in manifest order: by split, shard,
slot. Modalities added later (`extra/<name>`) are read by name like any other. A Dataset may be shared
by threads, forked workers and, by pickling, spawned ones.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.registry import BandStatistics
from configs.schema.data import SampleFilter
from configs.schema.modality import Modality
from shards.codec import META_PART, decode_meta
from shards.errors import ShardError
from shards.filters import matching
from shards.index import read_index
from shards.manifest import EXTRA, INDEX, MANIFEST, modalities_of, read_manifest
from shards.remote import fetch_heads
from shards.sample import Part, SampleMeta
from shards.splitting import read_splitting
from shards.storage import ShardCache, is_url
from shards.store import Store

_AGAIN = "run the same build again: it makes this shard anew"


def open_dataset(
    path: str | Path,
    *,
    verify: bool = True,
    cache: Path | None = None,
    cache_gb: float = float("inf"),
) -> "Dataset":
    """Open a finished data set, in a folder or behind a URL.

    With `verify`, every tar's size is compared with the index, and the index with its digest; without,
    a damaged shard is told when a sample of it is read. `cache` is a folder on a fast local disk that
    gets verified copies of shards, up to `cache_gb`; behind a URL it also keeps manifest and index.
    Raises ShardError when there is no manifest, or a file is missing, truncated or foreign.
    """
    if not is_url(path):
        return Dataset(Path(path), verify=verify, cache=cache, cache_gb=cache_gb)
    folder = fetch_heads(str(path), cache)
    return Dataset(folder, root=str(path), verify=verify, cache=cache, cache_gb=cache_gb)


class Dataset:
    """A finished data set of N samples; use `open_dataset`.

    Attributes:
        path: its folder.
        manifest: what manifest.json says.
        fingerprint: hex digest of its content.
        modalities: the rows it was made with and of modalities added later, in registry order.
        own_modalities: those it was made with.
        statistics: mean and deviation per band of each image, over the train split.
        sums: the same as {mean, std, count}, lists of a value per band, to be added to others.
        class_counts: pixels per class value of each class map, int64 [num_classes], likewise.
        extras: names of what was derived from it later, such as tokens.
    """

    def __init__(
        self,
        path: Path,
        *,
        root: str | None = None,
        verify: bool = True,
        cache: Path | None = None,
        cache_gb: float = float("inf"),
    ) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path / MANIFEST)
        self.fingerprint: str = self.manifest["fingerprint"]
        self.modalities: dict[str, Modality] = modalities_of(self.manifest)
        self.own_modalities = dict(self.modalities)
        self.sums: dict[str, dict[str, list[Any]]] = {}
        self.statistics: dict[str, BandStatistics] = {}
        self.class_counts: dict[str, np.ndarray] = {}
        self._take_statistics(self.manifest)
        shards = self.manifest["shards"]
        self._shards: list[tuple[str, str]] = [(s["split"], s["name"]) for s in shards]
        self._starts = np.cumsum([0, *(s["num_samples"] for s in shards)])
        self._shard_numbers = {shard: number for number, shard in enumerate(self._shards)}
        self._options = {"cache": cache, "cache_gb": cache_gb}
        self.root = root or str(path)
        self._cache = None
        if cache is not None:
            self._cache = ShardCache(cache / self.fingerprint, cache_gb * 1e9)
        self._stores: dict[str, tuple[Store, int]] = {}
        self._extra_manifests: dict[str, dict[str, Any]] = {}
        self._own = self._add_store(path, self.manifest, verify)
        for manifest_path in sorted(path.glob(f"{EXTRA}/*/{MANIFEST}")):
            self._add_extra(manifest_path, verify)
        self.modalities = dict(sorted(self.modalities.items(), key=lambda item: item[1].order))
        self.extras: tuple[str, ...] = tuple(
            name for name in self._extra_manifests if name not in self.modalities
        )
        if verify and (damaged := self.damaged_shards()):
            raise ShardError(f"{damaged[0]}; {_AGAIN}")

    @property
    def splits(self) -> np.ndarray:
        """The split of each sample by the build: str [N], made anew with each call."""
        return np.repeat(np.array([split for split, _ in self._shards]), np.diff(self._starts))

    @property
    def num_samples(self) -> int:
        return int(self._starts[-1])

    @property
    def keys(self) -> Sequence[str]:
        return self._own.index.keys

    def present(self, name: str) -> np.ndarray:
        """Which samples have the modality or extra: bool [N]. Raises ShardError for other names."""
        store, p = self._find(name)
        return store.present(p)

    def select(
        self,
        split: str | None = None,
        require: Iterable[str] = (),
        where: SampleFilter | None = None,
        splitting: str = "",
    ) -> np.ndarray:
        """Samples of a split (None: of all) that have every required modality: int64, ascending.

        `where` filters further, by presence, place, day and cloud. `splitting` names splits made
        later (`python -m shards split`) instead of the build's.
        Raises ShardError for a split, a splitting or a modality that the data set does not know.
        """
        chosen = np.ones(self.num_samples, bool)
        if split is not None:
            later = read_splitting(self, splitting) if splitting else None
            names = later.names if later else self.split_names()
            if split not in names:
                raise ShardError(f"{self.path} has no split {split!r}; it has {', '.join(names)}")
            if later:
                chosen &= later.split_of == names.index(split)
            else:
                mine = [own == split for own, _ in self._shards]
                chosen &= np.repeat(mine, np.diff(self._starts))
        for name in require:
            chosen &= self.present(name)
        if where is not None and where != SampleFilter():
            chosen &= matching(self, where)
        return np.flatnonzero(chosen)

    def split_names(self, splitting: str = "") -> tuple[str, ...]:
        """The splits of the build, or those of a splitting made later."""
        if splitting:
            return read_splitting(self, splitting).names
        return tuple(self.manifest["splits"])

    def read(
        self, i: int, names: Iterable[str], into: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Part]:
        """The named parts of sample `i`, those it has; every other byte stays on disk.

        Arrays are writable and the caller's own. An array in `into`, such as a row of a batch, is
        filled in place where it has the part's type and shape. Raises DamagedError, naming the file,
        the offset and the sample, when bytes differ from their digest.
        """
        self._check_number(i)
        by_store: dict[Store, list[tuple[int, str]]] = {}
        for name in names:
            store, p = self._find(name)
            by_store.setdefault(store, []).append((p, name))
        parts: dict[str, Part] = {}
        for store, columns in by_store.items():
            parts |= store.read(i, columns, into or {})
        return parts

    def extents(self, i: int, names: Iterable[str]) -> list[tuple[str, int, int]]:
        """Tar, block and size of the named parts of sample `i`, those it has, in their order."""
        self._check_number(i)
        places = [self._find(name) for name in names]
        found = [store.extent(i, p) for store, p in places]
        return [extent for extent in found if extent is not None]

    def tars(self, names: Iterable[str]) -> list[str]:
        """Paths or URLs of all tars that hold the named parts."""
        stores = {self._find(name)[0]: None for name in names}
        return [tar for store in stores for tar in store.tars]

    def meta(self, i: int) -> SampleMeta:
        """Where and when sample `i` was seen. Raises DamagedError as `read` does."""
        self._check_number(i)
        column = self._own.index.parts.index(META_PART)
        found = self._own.read(i, [(column, META_PART)], {})[META_PART]
        assert isinstance(found, str)
        return decode_meta(found)

    def location(self, i: int) -> tuple[str, str, int]:
        """Split, shard and slot of sample `i`."""
        self._check_number(i)
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        return (*self._shards[shard], int(i - self._starts[shard]))

    def locate(self, i: int) -> tuple[str, str]:
        """A sample's key and the path of its shard, for messages and logs."""
        split, shard, _ = self.location(i)
        return self.keys[i], f"{self.path}/{split}/{shard}.tar"

    def extra_manifest(self, name: str) -> dict[str, Any]:
        """The manifest of an extra, its `info` included. Raises ShardError when there is none."""
        if name not in self._extra_manifests:
            raise ShardError(f"{self.path} has no extra {name!r}; it has {self.extras or 'none'}")
        return self._extra_manifests[name]

    def damaged_shards(self) -> list[str]:
        """Tars that are missing or not of their size, each with what is wrong; nothing is read."""
        stores = {store: None for store, _ in self._stores.values()}
        return [line for store in stores for line in store.damaged_shards()]

    @property
    def shards(self) -> Sequence[tuple[str, str]]:
        """(split, name) of every shard, in manifest order."""
        return self._shards

    def shard_samples(self, split: str, name: str) -> range:
        """The numbers of a shard's samples, in slot order. Raises ShardError for other shards."""
        shard = self._shard_numbers.get((split, name))
        if shard is None:
            raise ShardError(f"{self.path} has no shard {split}/{name}")
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {self.num_samples} samples, {self.fingerprint})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(open_dataset, verify=False, **self._options), (self.root,)

    def _add_store(self, folder: Path, manifest: dict[str, Any], verify: bool) -> Store:
        index = read_index(folder / INDEX, verify=verify)
        counts = [s["num_samples"] for s in manifest["shards"]]
        if index.num_samples != self.num_samples or counts != np.diff(self._starts).tolist():
            raise ShardError(
                f"{folder}: index and manifest count different samples; run the same build again"
            )
        if index.digest != manifest["index_digest"]:
            raise ShardError(f"{folder / INDEX}: belongs to another manifest; build again")
        names = [f"{split}/{name}" for split, name in self._shards]
        sizes = [shard["tar_bytes"] for shard in manifest["shards"]]
        # Extras are small beside the pixels; only the data set's own tars are worth copies.
        own = folder == self.path
        root, cache = (self.root, self._cache) if own else (str(folder), None)
        store = Store(root, index, names, self._starts.tolist(), sizes, cache)
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
        if "modality" in manifest:
            self.modalities |= modalities_of({"modalities": [manifest["modality"]]})
            self._take_statistics(manifest)

    def _take_statistics(self, manifest: Mapping[str, Any]) -> None:
        for name, found in manifest["statistics"].items():
            self.sums[name] = found
            self.statistics[name] = BandStatistics(tuple(found["mean"]), tuple(found["std"]))
        for name, counts in manifest["class_counts"].items():
            self.class_counts[name] = np.array(counts, np.int64)

    def _find(self, name: str) -> tuple[Store, int]:
        if name not in self._stores:
            raise ShardError(
                f"{self.path} holds no modality {name!r}; it holds {', '.join(self._stores)}"
            )
        return self._stores[name]

    def _check_number(self, i: int) -> None:
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} of {self.num_samples}")
