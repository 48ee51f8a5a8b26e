"""The reader: samples by number, any subset of their modalities, only the bytes that are asked for.

    ds = open_dataset("data/synthetic")
    for i in ds.select("train", require=["S2L2A"]):
        parts = ds.read(i, ["S2L2A", "LULC"])          # {"S2L2A": array (12, H, W), ...}

A data set exists when its manifest does. Samples are numbered in manifest order: by split, shard,
slot. Modalities added later (`extra/<name>`) are read by name like any other. Files are opened when
they are first needed, once per thread, so a Dataset may be shared by threads, forked workers and,
by pickling, spawned ones.
"""

import functools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from configs.registry import BandStatistics
from configs.schema.modality import Modality
from shards.codec import META_PART, decode_meta, decode_part
from shards.errors import DamagedError, ShardError
from shards.index import ShardIndex, read_index
from shards.manifest import EXTRA, INDEX, MANIFEST, modalities_of, read_manifest
from shards.sample import Part, SampleMeta
from shards.tar import BLOCK_BYTES

_MAX_OPEN_FILES = 64


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
        self._files = _Files()
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
        return (store.index.records["present"] >> np.uint32(p) & np.uint32(1)).astype(bool)

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

    def read(self, i: int, names: Iterable[str]) -> dict[str, Part]:
        """The named parts of sample `i`, those it has; every other byte stays on disk.

        Arrays are writable and the caller's own. Raises DamagedError, naming the file, the offset
        and the sample, when bytes differ from their digest.
        """
        parts: dict[str, Part] = {}
        for name in names:
            store, p = self._find(name)
            if self._is_present(store, p, i):
                extension = store.index.parts[p].partition(".")[2]
                parts[name] = self._decoded(store, p, i, functools.partial(decode_part, extension))
        return parts

    def meta(self, i: int) -> SampleMeta:
        """Where and when sample `i` was seen. Raises DamagedError as `read` does."""
        p = self._own.index.parts.index(META_PART)
        return self._decoded(self._own, p, i, decode_meta)

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
        store = _Store(index, tars)
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

    def _is_present(self, store: _Store, p: int, i: int) -> bool:
        self._check_number(i)
        return bool(int(store.index.records["present"][i]) >> p & 1)

    def _shard_number(self, i: int) -> int:
        return int(np.searchsorted(self._starts, i, side="right")) - 1

    def _check_number(self, i: int) -> None:
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} of {self.num_samples}")

    def _decoded(self, store: _Store, p: int, i: int, decode: Any) -> Any:
        path = store.tars[self._shard_number(i)]
        entry = store.index.records["parts"][i, p]
        offset = int(entry["block"]) * BLOCK_BYTES
        try:
            data = self._files.read(path, offset, int(entry["size"]))
            if xxhash.xxh3_64_intdigest(data) != int(entry["digest"]):
                raise DamagedError("the bytes differ from their digest")
            return decode(data)
        except (DamagedError, OSError) as error:
            raise DamagedError(
                f"{path}, offset {offset}, {self.keys[i]}.{store.index.parts[p]}: {error}; remove "
                f"{Path(path).name} and its .idx and run the same build again: it makes the shard anew"
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


class _Files(threading.local):
    """Open tars of one thread, the least recently used closed first.

    Per thread, because a descriptor closed here could be another file by the time another thread
    reads from it. `pread` keeps no position, so descriptors inherited by a fork stay right.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytearray:
        """Exactly `size` bytes. Raises DamagedError when the file ends before."""
        descriptor = self._open.pop(path, None) or _Descriptor(path)
        self._open[path] = descriptor
        if len(self._open) > _MAX_OPEN_FILES:
            self._open.popitem(last=False)
        # A bytearray, because arrays decoded in place are then writable without a copy.
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = os.preadv(descriptor.fd, [view[done:]], offset + done)
            if count == 0:
                raise DamagedError(f"the file ends {size - done} bytes early")
            done += count
        return data


class _Descriptor:
    """A file descriptor closed with its last reference."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


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
