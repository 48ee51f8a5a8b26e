"""Where labelled samples come from: our shards, GEO-Bench, class folders, a table of files.

All give the same: rows that say what the parts are, splits, and parts by name as shards have them. The
label of what is not a shard set is the row `label`. Free of torch: whether a command is done is asked of
`source_digest`, and answered at once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import (
    ClassFolders,
    GeoBenchSourceConfig,
    ImageTable,
    Modality,
    ShardLabels,
    TaskConfig,
)
from pipeline.transfer.bands import band_key
from shards import open_dataset
from shards.errors import SourceError
from shards.files import to_json
from shards.sources.base import SampleRef
from shards.sources.geobench import GeoBenchSource
from shards.sources.geobench_file import LABEL

SPLITS = ("train", "val", "test")
_HELD_OUT = 0.2
_GEOBENCH_FILES = (".hdf5", ".json", ".pkl")


class Samples(Protocol):
    """Labelled samples, numbered."""

    @property
    def rows(self) -> Mapping[str, Modality]: ...

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def splits(self) -> Mapping[str, np.ndarray]: ...

    def read(self, i: int, names: Iterable[str]) -> dict[str, Any]:
        """The named parts that a sample has. Raises ShardError for a damaged one."""
        ...

    def subset(self, share: float) -> np.ndarray | None:
        """Numbers of the training samples that the benchmark itself publishes for a share of labels."""
        ...

    def statistics(self, name: str) -> BandStatistics | None:
        """Mean and deviation per band that the data set itself publishes."""
        ...


def open_samples(config: TaskConfig) -> Samples:
    """The samples a task's `data` describes. Raises ConfigError or ShardError."""
    match config.data:
        case ShardLabels():
            return _Shards(config.data)
        case GeoBenchSourceConfig():
            return _GeoBench(config.data)
        case ClassFolders() | ImageTable():
            from pipeline.transfer.files import open_files

            return open_files(config.data, config.type)


def source_digest(config: TaskConfig) -> str:
    """Names exactly the data that a task's configuration means now, without reading a pixel.

    Shards are told by their fingerprint, files by name, size and time of change. Hex. Raises ConfigError or
    ShardError where there is no such data.
    """
    match config.data:
        case ShardLabels():
            found = _Shards(config.data).source()
        case GeoBenchSourceConfig():
            # To list its samples is to open each; its folder tells as much at once.
            check_folder(config.data.path)
            files = (p for p in config.data.path.iterdir() if p.suffix in _GEOBENCH_FILES)
            found = [[path.name, file_state(path)] for path in sorted(files)]
        case ClassFolders() | ImageTable():
            from pipeline.transfer.files import open_files

            found = open_files(config.data, config.type).source()
    return xxhash.xxh3_64_hexdigest(to_json(found))


def file_state(path: Path) -> list[int] | None:
    """Bytes and time of change (ns) of a file: another one, another content. None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def share_of(key: str) -> float:
    """A number in [0, 1) that a key always has."""
    return xxhash.xxh3_64_intdigest(key.encode()) / 2**64


class _Shards:
    def __init__(self, config: ShardLabels):
        # Damaged shards are told when their samples are read.
        self._dataset = open_dataset(config.shards, verify=False)
        keys: Sequence[str] = self._dataset.keys
        self.rows, self.keys = self._dataset.modalities, keys

        def select(split: str) -> np.ndarray:
            return self._dataset.select(split, where=config.filter)

        train = select(config.train)
        if config.val:
            val = select(config.val)
        else:
            held = np.array([share_of(keys[int(i)]) < _HELD_OUT for i in train], dtype=bool)
            train, val = train[~held], train[held]
        self.splits = {"train": train, "val": val, "test": select(config.test)}
        check_apart(self.splits)

    def source(self) -> list[Any]:
        """What tells this data from any other, as JSON values.

        Modalities that were added later may be made anew, and `filter` may look at them.
        """
        added = sorted(set(self.rows) - set(self._dataset.own_modalities))
        chosen = {n: xxhash.xxh3_64_hexdigest(i.tobytes()) for n, i in self.splits.items()}
        made = {n: self._dataset.extra_manifest(n)["fingerprint"] for n in added}
        return [self._dataset.fingerprint, made, chosen]

    def read(self, i: int, names: Iterable[str]) -> dict[str, Any]:
        return self._dataset.read(i, names)

    def subset(self, share: float) -> np.ndarray | None:
        return None

    def statistics(self, name: str) -> BandStatistics | None:
        return self._dataset.statistics.get(name)


class _GeoBench:
    """Splits as published; without `test` labels nobody has any."""

    def __init__(self, config: GeoBenchSourceConfig):
        self._config, self._source = config, GeoBenchSource(config)
        table = self._source.listing()
        self.rows = self._source.rows
        if LABEL not in self.rows:
            raise ConfigError(f"{config.path}: its samples have no label")
        self.keys = table["key"].to_pylist()
        split = np.array(table["split"].to_pylist())
        there = np.array(table["num_bytes"].to_pylist()) > 0
        self.splits = {name: np.flatnonzero((split == name) & there) for name in SPLITS}
        check_apart(self.splits, self.keys)

    def read(self, i: int, names: Iterable[str]) -> dict[str, Any]:
        sample = self._source.read(SampleRef(self.keys[i], 0, i, None, None, 0))
        return {name: sample.parts[name] for name in names if name in sample.parts}

    def subset(self, share: float) -> np.ndarray | None:
        """`0.01x_train_partition.json` and the like; None where the task has no such file."""
        text = f"{share:.2f}"
        name = f"{text}x_train"
        # 0.125 is not the published 0.12.
        if float(text) != share or not (self._config.path / f"{name}_partition.json").is_file():
            return None
        from shards.sources.geobench_task import read_partition
        from shards.tar import escape_key

        listed = read_partition(self._config.path / f"{name}_partition.json")["train"]
        place = {key: i for i, key in enumerate(self.keys)}
        found = np.array(sorted(place[k] for n in listed if (k := escape_key(n)) in place), int)
        return np.intersect1d(found, self.splits["train"])

    def statistics(self, name: str) -> BandStatistics | None:
        """Those of band_stats.json, where it has all bands of the row. Raises SourceError."""
        path = self._config.path / "band_stats.json"
        if not path.is_file():
            return None
        try:
            told = {
                band_key(band): (float(values["mean"]), float(values["std"]))
                for band, values in json.loads(path.read_text()).items()
                if band != LABEL
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{path}: no band statistics of GEO-Bench: {error!r}") from error
        keys = [band_key(band) for band in self.rows[name].bands]
        if not set(keys) <= set(told):
            return None
        mean, std = zip(*(told[key] for key in keys), strict=True)
        return BandStatistics(mean, std)


def check_apart(splits: Mapping[str, np.ndarray], keys: Sequence[str] | None = None) -> None:
    """Raises ConfigError where a sample is in two splits: scores would mean nothing.

    By its `keys` where samples may be listed more than once.
    """
    named = splits if keys is None else {n: np.array(keys)[i] for n, i in splits.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        both = np.intersect1d(named[a], named[b])
        if len(both):
            told = f" ({both[0]})" if keys is not None else ""
            raise ConfigError(f"{len(both)} samples are in {a} and {b}{told}: choose splits apart")


def check_folder(path: Path) -> None:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder")
