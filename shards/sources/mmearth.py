"""MMEarth (Nedungadi et al. 2024): a folder with one HDF5 file, a row per tile.

    FOLDER/NAME.h5                the datasets of `shards.sources.mmearth_parts`, and `metadata`
    FOLDER/NAME_tile_info.json    date, place, CRS and product type of each tile
    FOLDER/NAME_splits.json       {split: [rows]}; for `splits: source`, and may be missing

- A sample is a tile; its key is the tile's id. Tiles of L1C and of L2A fill different modalities.
- Blocks are runs of rows: a plan keeps them together, and reading goes up through the file.
- Every process opens the file for itself when it first reads: HDF5 does not survive a fork. The chunk
  cache is off, as a chunk is a tile and is read once.
- Only rank 0, for the listing, reads `metadata` (whole: its chunks are one row each) and all of the
  tiles' places. Keys are tile ids, so that reading needs neither.
- Tiles have a CRS and a centre but no transform: `meta.transform` is empty. Coordinates are degrees and
  the date is a day, from the JSON file, which says more than the sines and cosines in the HDF5 file.
- meta.cloud is the share of clouds where QA60 (L1C) or the scene classification (L2A) tells.
"""

import functools
import json
import os
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from configs.registry import in_registry_order
from configs.schema import MMEarthSourceConfig
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.maps import DERIVED, iso_day
from shards.sources.mmearth_parts import DATASETS, NUM_BANDS, OPTICAL, cloud_share, part_of
from shards.sources.tile_info import TileInfo
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa

_CLOUD = {"l1c": "sentinel2_cloudmask", "l2a": "sentinel2_scl"}
_NO_SPLIT = "unassigned"


class MMEarthSource:
    """The tiles of one HDF5 file. Raises SourceError for a folder or a file that is not MMEarth's."""

    name = "mmearth"

    def __init__(self, config: MMEarthSourceConfig) -> None:
        self._config = config
        self._path = _find(config)
        self._opened: tuple[int, Any] | None = None

    @property
    def rows(self) -> dict[str, Modality]:
        """What the file's datasets give, and place and date; or those configured of them."""
        return self._rows

    @functools.cached_property
    def _rows(self) -> dict[str, Modality]:
        have = {name for name, dataset in DATASETS.items() if dataset in self._shapes}
        have |= set(DERIVED)
        missing = [name for name in self._config.modalities if name not in have]
        if missing:
            raise SourceError(
                f"{self._path} has no {', '.join(missing)}; it has "
                f"{', '.join(in_registry_order(have))}: change source.modalities"
            )
        return registry_rows(in_registry_order(set(self._config.modalities) or have))

    def fingerprint(self) -> str:
        """Digest of the files' sizes, the datasets' shapes, the splits and the options."""
        content = [
            self.name,
            list(self.rows),
            self._config.rows_per_block,
            self._path.stat().st_size,
            self._file_of("tile_info").stat().st_size,
            {name: (list(shape), str(dtype)) for name, (shape, dtype) in self._shapes.items()},
            self._splits,
        ]
        return xxhash.xxh3_128_hexdigest(to_json(content))

    def listing(self) -> "pa.Table":
        """All tiles in the order of the rows. Raises SourceError for files that contradict it."""
        with _open(self._path) as file:
            metadata = file["metadata"][:]
        ids = [tile.decode() for tile in metadata[metadata.dtype.names[0]].tolist()]
        row_of = {tile: row for row, tile in enumerate(ids)}
        places = np.full((len(ids), 2), np.nan)
        for tile, entry in self._tiles.items():
            if tile in row_of:
                places[row_of[tile]] = _lonlat(entry) or (np.nan, np.nan)
        numbers = np.arange(len(ids))
        widths = [
            int(np.prod(shape[1:])) * dtype.itemsize for shape, dtype in self._shapes.values()
        ]
        return make_listing(
            [escape_key(tile) for tile in ids],
            block=numbers // self._config.rows_per_block,
            lon=places[:, 0],
            lat=places[:, 1],
            num_bytes=sum(widths),
            split=self._split_names(len(ids)),
        )

    def read(self, ref: SampleRef) -> Sample:
        """Everything the tile has; a dataset whose row cannot be read is a fault.

        Raises SampleError for a tile that tile_info.json does not know.
        """
        tile = urllib.parse.unquote(ref.key)
        entry = self._tiles.find(tile)
        s2_type = str(entry.get("S2_type"))
        if s2_type not in OPTICAL:
            raise SampleError(f"tile {tile}: S2_type is {s2_type!r}, neither l1c nor l2a")
        values: dict[str, np.ndarray] = {}
        parts: dict[str, Part] = {}
        faults: dict[str, str] = {}
        for name in self.rows:
            if name in DERIVED or (name in OPTICAL.values() and name != OPTICAL[s2_type]):
                continue
            try:
                dataset = DATASETS[name]
                if dataset not in values:
                    values[dataset] = self._values(dataset, ref.row)
                part = part_of(name, values[dataset], f"{self._path}: row {ref.row}")
                if part is not None:
                    parts[name] = part
            except SampleError as error:
                faults[name] = str(error)
        cloud = None
        if _CLOUD[s2_type] in self._shapes:
            try:
                cloud = cloud_share(self._values(_CLOUD[s2_type], ref.row), s2_type)
            except SampleError as error:
                faults["cloud"] = str(error)
        return self._sample(ref.key, entry, parts, faults, OPTICAL[s2_type], cloud)

    @functools.cached_property
    def _tiles(self) -> TileInfo:
        return TileInfo(self._file_of("tile_info"))

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of the datasets that are used."""
        with _open(self._path) as file:
            if "metadata" not in file:
                raise SourceError(f"{self._path} has no dataset `metadata`: it is not MMEarth's")
            num = len(file["metadata"])
            found = {n: (file[n].shape, file[n].dtype) for n in NUM_BANDS if n in file}
        for name, (shape, _) in found.items():
            if shape[:2] != (num, NUM_BANDS[name]):
                raise SourceError(
                    f"{self._path}: {name} is {shape}, ({num}, {NUM_BANDS[name]}, ...) expected; "
                    "leave it out of the file or fetch the file again"
                )
        return found

    @functools.cached_property
    def _splits(self) -> dict[str, list[int]] | None:
        path = self._file_of("splits")
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text())
            return {str(split): [int(row) for row in rows] for split, rows in values.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise SourceError(f"{path}: not the rows of splits: {error}") from error

    def _split_names(self, num: int) -> list[str] | None:
        """The split of every row; rows that no split names are in one of their own."""
        if self._splits is None:
            return None
        names = np.full(num, _NO_SPLIT, object)
        for split, rows in self._splits.items():
            if rows and not 0 <= min(rows) <= max(rows) < num:
                raise SourceError(f"{self._file_of('splits')}: rows beyond the {num} of the file")
            taken = [row for row in rows if names[row] != _NO_SPLIT]
            if taken:
                raise SourceError(
                    f"{self._file_of('splits')}: row {taken[0]} is in {names[taken[0]]} and {split}"
                )
            names[rows] = split
        return names.tolist()

    def _file_of(self, what: str) -> Path:
        return self._path.with_name(f"{self._path.stem}_{what}.json")

    def _values(self, dataset: str, row: int) -> np.ndarray:
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            self._opened = (process, _open(self._path))
        try:
            return self._opened[1][dataset][row]
        except (OSError, KeyError, ValueError) as error:
            raise SampleError(
                f"{self._path}: row {row} of {dataset} cannot be read: {error}"
            ) from error

    def _sample(
        self,
        key: str,
        entry: dict[str, Any],
        parts: dict[str, Part],
        faults: dict[str, str],
        optical: str,
        cloud: float | None,
    ) -> Sample:
        lonlat, day = _lonlat(entry), iso_day(str(entry.get("S2_DATE")))
        if lonlat and "coordinates" in self.rows:
            parts["coordinates"] = np.array(lonlat, np.float64)
        if day and "date" in self.rows:
            parts["date"] = day
        lon, lat = lonlat or (None, None)
        meta = SampleMeta(
            lon=lon,
            lat=lat,
            crs=entry.get("CRS") or None,
            times={optical: day} if day else {},
            source=self.name,
            cloud=cloud,
        )
        return Sample(key, parts, meta, faults)


def _find(config: MMEarthSourceConfig) -> Path:
    if config.name:
        path = config.path / f"{config.name}.h5"
        if path.is_file():
            return path
    found = sorted(config.path.glob("*.h5"))
    if config.name or len(found) != 1:
        names = ", ".join(path.stem for path in found) or "no .h5"
        raise SourceError(
            f"{config.path} has {names}; write source.path=FOLDER with the folder of NAME.h5 and "
            "NAME_tile_info.json, and source.name=NAME where there are several"
        )
    return found[0]


def _open(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", rdcc_nbytes=0)
    except OSError as error:
        raise SourceError(f"{path}: not readable as HDF5: {error}; fetch it again") from error


def _lonlat(entry: dict[str, Any]) -> tuple[float, float] | None:
    lon, lat = entry.get("lon"), entry.get("lat")
    return None if lon is None or lat is None else (float(lon), float(lat))
