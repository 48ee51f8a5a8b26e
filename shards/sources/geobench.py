"""One task of GEO-Bench v1 (Lacoste et al. 2023): `SAMPLE.hdf5` per sample, splits as published.

    TASK/default_partition.json   {"train": [names], "valid": [...], "test": [...]}
    TASK/task_specs.pkl           number and names of the classes; read by `shards.sources.unpickle`
    TASK/SAMPLE.hdf5              see `shards.sources.geobench_file`

- Splits are named train, val and test; take them with `splits: source`. Samples outside of the
  partition are not listed; a sample of the partition without a file is quarantined.
- Which rows the bands fill is told in `shards.sources.geobench_task`, after the first sample.
- Of a time series each band gives one date, `dates: first` or `last`; other dates are left out.
- The label is the row `label`: a one-hot or multi-hot vector, or a class map for segmentation.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality_registry
from configs.schema import GeoBenchSourceConfig
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.convert import invalid_pixels, to_row
from shards.sources.geobench_file import (
    LABEL,
    Band,
    Header,
    crs_name,
    open_sample,
    read_header,
    read_pixels,
)
from shards.sources.geobench_task import Group, groups_of, label_of, read_partition
from shards.sources.grid import GRID_M, centre_at, grid_at
from shards.sources.maps import DERIVED
from shards.sources.own_rows import hot
from shards.sources.unpickle import plain
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa


class GeoBenchSource:
    """The samples of one task. Raises SourceError for a folder that holds none."""

    name = "geobench"

    def __init__(self, config: GeoBenchSourceConfig) -> None:
        self._config = config
        if not config.path.is_dir():
            raise SourceError(
                f"{config.path}: no such folder; write source.path=FOLDER with the folder of one "
                "task, such as classification_v1.0/m-eurosat"
            )

    @property
    def rows(self) -> dict[str, Modality]:
        """What the bands fill, where and when they were seen, and the label."""
        return self._rows

    @functools.cached_property
    def _rows(self) -> dict[str, Modality]:
        filled = {group.row.name: group.row for group in self._groups}
        registry = in_registry_order({*DERIVED, *(n for n in filled if n in modality_registry())})
        label = {LABEL: self._label} if self._label else {}
        return registry_rows(registry) | filled | label

    def fingerprint(self) -> str:
        """Digest of the partition, the sizes of its files, the rows and the options."""
        content = [
            self.name,
            self._config.model_dump(mode="json", exclude={"path"}),
            self._splits,
            [row.content() for row in self.rows.values()],
            list(zip(self._names, self._sizes, strict=True)),
        ]
        return xxhash.xxh3_128_hexdigest(to_json(content))

    def listing(self) -> "pa.Table":
        """The partition's samples in its order; headers are read for places, pixels are not."""
        places = [self._place(name) for name in self._names]
        return make_listing(
            [escape_key(name) for name in self._names],
            block=np.arange(len(places)),
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=[max(size, 0) for size in self._sizes],
            split=[split for split, names in self._splits.items() for _ in names],
        )

    def read(self, ref: SampleRef) -> Sample:
        """All rows the sample fills; what does not fit its row is a fault.

        Raises SampleError for a file that cannot be read, or holds attributes that cannot be trusted.
        """
        path = self._path(self._names[ref.row])
        parts: dict[str, Part] = {}
        faults: dict[str, str] = {}
        times: dict[str, str] = {}
        with open_sample(path) as file:
            header = read_header(path, file)
            for group in self._groups:
                name = group.row.name
                try:
                    bands = self._bands(header, group, path)
                    if bands:
                        pixels = read_pixels(path, file, bands)
                        parts[name] = to_row(pixels, invalid_pixels(pixels, None), group.row, path)
                        days = {band.day for band in bands}
                        # Bands of different days make an image of no day.
                        if len(days) == 1 and bands[0].day:
                            times[name] = bands[0].day
                except SampleError as error:
                    faults[name] = str(error)
            if self._label:
                try:
                    parts |= self._labels(self._label, header, file, path)
                except SampleError as error:
                    faults[LABEL] = str(error)
        return self._sample(ref.key, parts, faults, times, header)

    @functools.cached_property
    def _splits(self) -> dict[str, list[str]]:
        return read_partition(self._config.path / f"{self._config.partition}_partition.json")

    @functools.cached_property
    def _names(self) -> list[str]:
        return [name for names in self._splits.values() for name in names]

    @functools.cached_property
    def _sizes(self) -> list[int]:
        """Bytes of every sample; -1 for those without a file."""
        paths = map(self._path, self._names)
        return [path.stat().st_size if path.is_file() else -1 for path in paths]

    @functools.cached_property
    def _first(self) -> Header:
        """The header of the first sample that can be read: what it holds, all are taken to hold."""
        for path in map(self._path, self._names):
            try:
                with open_sample(path) as file:
                    return read_header(path, file)
            except SampleError as error:
                told = error
        raise SourceError(
            f"{self._config.path}: none of the {len(self._names)} samples of the partition "
            f"{self._config.partition!r} can be read; the last one: {told}"
        )

    @functools.cached_property
    def _groups(self) -> list[Group]:
        return groups_of(self._first, self._config)

    @functools.cached_property
    def _label(self) -> Modality | None:
        return label_of(self._first, self._config, len(self._groups))

    def _path(self, name: str) -> Path:
        return self._config.path / f"{name}.hdf5"

    def _place(self, name: str) -> tuple[float | None, float | None]:
        path = self._path(name)
        try:
            with open_sample(path) as file:
                return _lonlat(_placed(read_header(path, file))) or (None, None)
        except SampleError:
            # Listed all the same: reading it fails again and is told with its reason.
            return None, None

    def _bands(self, header: Header, group: Group, path: Path) -> list[Band]:
        """The bands that fill a group, one date of each; none when the sample has none of them."""
        dates: dict[str, list[Band]] = {}
        for band in header.bands:
            if band.sensor == group.sensor and band.name in group.bands:
                dates.setdefault(band.name, []).append(band)
        missing = [name for name in group.bands if name not in dates]
        if dates and missing:
            raise SampleError(f"{path}: lacks {', '.join(missing)} of {group.row.name}'s bands")
        choose = min if self._config.dates == "first" else max
        return [choose(dates[n], key=lambda b: b.day or "") for n in group.bands if n in dates]

    def _labels(self, row: Modality, header: Header, file: Any, path: Path) -> dict[str, Part]:
        """The label as the part `label`; empty for a sample without."""
        if row.kind == "classes":
            if header.label_band is None:
                return {}
            pixels = read_pixels(path, file, [header.label_band])
            return {LABEL: to_row(pixels, invalid_pixels(pixels, None), row, path)}
        if header.label is None:
            return {}
        return {LABEL: hot(_classes(header.label, row.num_bands, path), row, path)}

    def _sample(
        self,
        key: str,
        parts: dict[str, Part],
        faults: dict[str, str],
        times: dict[str, str],
        header: Header,
    ) -> Sample:
        band = _placed(header)
        lonlat = _lonlat(band)
        if lonlat:
            parts["coordinates"] = np.array(lonlat, np.float64)
        if times:
            parts["date"] = next(iter(times.values()))
        crs, transform = None, None
        if band and band.wkt:
            height, width = band.shape[:2]
            grid = grid_at(crs_name(band.wkt), band.affine, height, width, band.gsd_m or GRID_M)
            crs, transform = grid.crs, grid.transform
        lon, lat = lonlat or (None, None)
        meta = SampleMeta(
            lon=lon, lat=lat, crs=crs, transform=transform, times=times, source=self.name
        )
        return Sample(key, parts, meta, faults)


def _placed(header: Header) -> Band | None:
    """The first band that says where it lies."""
    return next((band for band in header.bands if band.affine and band.wkt), None)


def _lonlat(band: Band | None) -> tuple[float, float] | None:
    if band is None or not band.affine or not band.wkt:
        return None
    return centre_at(crs_name(band.wkt), band.affine, *band.shape[:2])


def _classes(label: Any, num: int, path: Path) -> Sequence[int]:
    """The classes of a label: one number, numbers, or a 0 or 1 for each of `num` classes."""
    listed = label.tolist() if isinstance(label, np.ndarray) else label
    try:
        values = [plain(v) for v in (listed if isinstance(listed, list | tuple) else [listed])]
        whole = all(isinstance(v, int | float) and float(v).is_integer() for v in values)
    except (ValueError, OverflowError):
        whole = False
    if not whole:
        raise SampleError(f"{path}: the label {label!r} is neither a class nor a list of classes")
    if len(values) == num > 1 and set(values) <= {0, 1}:
        return [i for i, value in enumerate(values) if value]
    return [int(value) for value in values]
