"""What a task of GEO-Bench v1 says about all of its samples: splits, classes, and their rows.

Bands are told by their names in the files. A registry row is used where a sensor has all of its
bands; bands that are left over, and sensors without a row, make rows of their own, one per sensor:

    Sentinel2        13 bands with cirrus -> S2L1C, 12 without -> S2L2A, else its own row
    SpectralBand     `image`: aerial RGB and the like
    others           a row named after the sensor: Sentinel1, ElevationBand, HyperSpectralBands, ...
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.registry import modality
from configs.schema import GeoBenchSourceConfig
from configs.schema.modality import Modality
from shards.errors import SourceError
from shards.sources.geobench_file import LABEL, UNKNOWN, Band, Header
from shards.sources.own_rows import class_map_row, image_row, label_row
from shards.sources.unpickle import Stub, UnsafePickle, loads

SPECS = "task_specs.pkl"
SPLITS = {"train": "train", "valid": "val", "test": "test"}

_DEFAULTS = {"Sentinel2": ("S2L1C", "S2L2A")}
_DEFAULT_GSD_M = 10.0


class Group(NamedTuple):
    """A row and the names, in the files, of the bands that fill it, in the row's order."""

    row: Modality
    sensor: str
    bands: tuple[str, ...]


def read_partition(path: Path) -> dict[str, list[str]]:
    """The names of the samples of each split, in the benchmark's order. Raises SourceError."""
    try:
        values = json.loads(path.read_text())
        return {split: [str(name) for name in values[theirs]] for theirs, split in SPLITS.items()}
    except FileNotFoundError as error:
        suffix = "_partition.json"
        known = sorted(p.name.removesuffix(suffix) for p in path.parent.glob(f"*{suffix}"))
        raise SourceError(
            f"{path}: no such partition; write source.partition=NAME with one of {known}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: not a partition of GEO-Bench: {error!r}") from error


def groups_of(header: Header, config: GeoBenchSourceConfig) -> list[Group]:
    """How the bands of the samples fill rows: those of the registry first, then the source's own.

    Raises SourceError for a configured modality whose bands the samples lack.
    """
    sensors: dict[str, dict[str, Band]] = {}
    for band in header.bands:
        sensors.setdefault(band.sensor, {})[band.name] = band
    mapped: list[Group] = []
    own: list[Group] = []
    for sensor, bands in sensors.items():
        rest = dict(bands)
        row = _registry_row(sensor, bands, config.modality_map)
        if row:
            by_short = {_short(name): name for name in bands}
            names = tuple(by_short[_short(band)] for band in row.bands)
            mapped.append(Group(row, sensor, names))
            rest = {name: band for name, band in bands.items() if name not in names}
        if rest:
            own.append(_own_group(sensor, rest, len(own)))
    return sorted(mapped, key=lambda group: group.row.order) + own


def label_of(header: Header, config: GeoBenchSourceConfig, number: int) -> Modality | None:
    """The row of the labels; None for samples without. Raises SourceError for unknown classes."""
    if header.label_band is None and header.label is None:
        return None
    classes = _classes(config)
    title = f"{config.path.name}: label"
    if header.label_band is None:
        return label_row(LABEL, title, classes, number)
    gsd_m = header.label_band.gsd_m or _DEFAULT_GSD_M
    return class_map_row(LABEL, title, classes, gsd_m, number)


def _registry_row(
    sensor: str, bands: Mapping[str, Band], modality_map: Mapping[str, str]
) -> Modality | None:
    have = {_short(name) for name in bands}
    if sensor in modality_map:
        row = modality(modality_map[sensor])
        missing = [band for band in row.bands if _short(band) not in have]
        if missing:
            raise SourceError(
                f"source.modality_map: {sensor} has no {', '.join(missing)} for {row.name}; it has "
                f"{', '.join(bands)}: leave {sensor} out of the map to keep these as they are"
            )
        return row
    rows = [modality(name) for name in _DEFAULTS.get(sensor, ())]
    return next((row for row in rows if have == {_short(band) for band in row.bands}), None)


def _own_group(sensor: str, bands: Mapping[str, Band], number: int) -> Group:
    first = next(iter(bands.values()))
    name = "image" if sensor == UNKNOWN else re.sub(r"[^A-Za-z0-9]", "", sensor)
    names = [
        band.name if band.num_bands == 1 else f"{band.name} {i + 1:03d}"
        for band in bands.values()
        for i in range(band.num_bands)
    ]
    dtype = np.result_type(*(band.dtype for band in bands.values()))
    row = image_row(name, sensor, names, dtype, first.gsd_m or _DEFAULT_GSD_M, number)
    return Group(row, sensor, tuple(bands))


def _short(band: str) -> str:
    """`08A - Vegetation Red Edge` and `B8A` -> `8A`: what both call the same band."""
    return re.sub(r"^B?0*", "", band.partition(" - ")[0].strip())


def _classes(config: GeoBenchSourceConfig) -> list[str]:
    """The names of the classes, numbered where the task has no names."""
    names: list[str] = []
    num = config.num_classes
    if num is None:
        num, names = _told_classes(config.path)
    if not num or num < 1:
        raise SourceError(
            f"{config.path}: neither {SPECS} nor label_map.json says how many classes there are; "
            "write source.num_classes=N"
        )
    return names if len(set(names)) == num else [f"class {value}" for value in range(num)]


def _told_classes(folder: Path) -> tuple[int | None, list[str]]:
    specs = _specs(folder / SPECS)
    label = specs.get("label_type") if isinstance(specs, Stub) else None
    if isinstance(label, Stub) and isinstance(label.get("n_classes"), int):
        names = label.get("_class_names") or label.get("class_name")
        texts = [name for name in names if isinstance(name, str)] if names else []
        return label.get("n_classes"), texts
    try:
        values = json.loads((folder / "label_map.json").read_text())
        return 1 + max(int(value) for value in values), []
    except (FileNotFoundError, ValueError, TypeError):
        return None, []


def _specs(path: Path) -> Any:
    try:
        return loads(path.read_bytes()) if path.is_file() else None
    except UnsafePickle as error:
        raise SourceError(
            f"{path}: {error}; if you trust the rest of the task, remove the file and write "
            "source.num_classes=N"
        ) from error
