"""GeoTIFFs named by a table: a row per sample, a column of file paths per modality.

    key,s2_path,dem_path,row_off,col_off,height,width
    a,scenes/T32.tif,dem/T32.tif,0,0,264,264
    b,scenes/T32.tif,,0,264,264,264

- An empty cell is a missing modality; a file that is named but not there is a fault.
- With `window`, four columns of integers cut the sample out of its files. They count pixels of 10 m
  from the upper left corner; a modality with other pixels is cut at the same place.
- Samples of one scene are one block: they stay side by side in the shards.
- Places and days come from the columns `lon`, `lat` and `date` where the configuration names them, else
  from georeferencing and tags. A day in the table is that of the first modality the sample has, in
  registry order.
- The rest is as for a folder of GeoTIFFs: see `shards.sources.maps`.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality
from configs.schema import GeoTiffListSourceConfig
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Sample
from shards.sources.base import SampleRef, make_listing, newest_of, registry_rows
from shards.sources.grid import Window
from shards.sources.maps import (
    DERIVED,
    Map,
    check_header,
    iso_day,
    place_of,
    read_map,
    sample_of,
)
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa


class GeoTiffListSource:
    """The samples of a table. Raises SourceError for a table that cannot be used."""

    name = "geotiff_list"

    def __init__(self, config: GeoTiffListSourceConfig) -> None:
        self._config = config
        self._root = config.root or config.table.parent
        column_of = {name: column for column, name in config.columns.items()}
        self._columns = {name: column_of[name] for name in in_registry_order(set(column_of))}
        for name in self._columns:
            if not modality(name).is_map:
                raise SourceError(f"source.columns: {name} is no map, and GeoTIFFs hold maps")
        if not config.table.is_file():
            raise SourceError(f"{config.table}: no such table; write source.table=FILE")

    @property
    def rows(self) -> dict[str, Modality]:
        """The modalities of the columns, and what places and days give."""
        return registry_rows(in_registry_order({*self._columns, *DERIVED}))

    def fingerprint(self) -> str:
        """Digest of the table, the sizes of the files it names, and the options."""
        options = self._config.model_dump(mode="json", exclude={"table", "root"})
        table = xxhash.xxh3_128_hexdigest(self._config.table.read_bytes())
        return xxhash.xxh3_128_hexdigest(to_json([self.name, options, table, self._sizes]))

    def newest(self) -> tuple[float, Path]:
        """See `OfFiles`; the table itself is known by its content."""
        return newest_of(self._root / text for text in self._sizes)

    def listing(self) -> "pa.Table":
        """All rows of the table in their order; without place columns, headers are read for places.

        Raises SourceError when the first file of a modality has not the registry's bands, or a row
        lacks its key, its files, its window or its split.
        """
        numbers = range(self._table.num_rows)
        files = [self._files(row) for row in numbers]
        self._check_rows(files)
        for name in self._columns:
            first = next((found[name] for found in files if name in found), None)
            if first is not None and first.is_file():
                check_header(first, name)
        places = [self._place(row, files[row]) for row in numbers]
        scenes = [str(next(iter(found.values()))) for found in files]
        split = self._config.split
        return make_listing(
            [escape_key(key) for key in self._column(self._config.key)],
            block=np.unique(scenes, return_inverse=True)[1],
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=[self._num_bytes(row) for row in numbers],
            split=self._column(split) if split else None,
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every map of the row; unreadable ones are faults. Raises SampleError if they do not align."""
        config, window = self._config, self._window(ref.row)
        maps: dict[str, Map] = {}
        faults: dict[str, str] = {}
        for name, path in self._files(ref.row).items():
            try:
                maps[name] = read_map(path, name, window)
            except (SampleError, OSError) as error:
                faults[name] = str(error)
        if config.lon:
            lon, lat = self._place(ref.row, {})
            lonlat = None if lon is None or lat is None else (lon, lat)
            maps = {name: m._replace(lonlat=lonlat) for name, m in maps.items()}
        if config.date and maps:
            maps = {name: m._replace(day=None) for name, m in maps.items()}
            first = next(iter(maps))
            maps[first] = maps[first]._replace(day=self._day(ref.row))
        return sample_of(ref.key, maps, faults, self.name)

    @functools.cached_property
    def _table(self) -> Any:
        """The columns that are used, as pyarrow."""
        import pyarrow as pa

        config = self._config
        types = dict.fromkeys((config.key, *config.columns), pa.string())
        types |= {name: pa.string() for name in (config.split, config.date) if name}
        types |= {name: pa.float64() for name in (config.lon, config.lat) if name}
        types |= dict.fromkeys(config.window or (), pa.int64())
        try:
            table = _read(config.table, types)
            missing = [name for name in types if name not in table.column_names]
            if missing:
                raise SourceError(
                    f"{config.table} has no column {', '.join(missing)}; it has "
                    f"{', '.join(table.column_names)}: correct the column names of the source"
                )
            return table.select(list(types)).cast(pa.schema(list(types.items()))).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{config.table}: not readable as a table: {error}") from error

    def _column(self, name: str) -> list[Any]:
        return self._table.column(name).to_pylist()

    def _cell(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()

    def _texts(self, row: int) -> dict[str, str]:
        """Modality -> path of one row as the table has it, in registry order."""
        texts = {name: self._cell(column, row) for name, column in self._columns.items()}
        return {name: text for name, text in texts.items() if text}

    def _files(self, row: int) -> dict[str, Path]:
        return {name: self._root / text for name, text in self._texts(row).items()}

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """Bytes of every file the table names, by its path there; -1 for those that are not there."""
        texts = {text for name in self._config.columns for text in self._column(name) if text}
        paths = {text: self._root / text for text in sorted(texts)}
        return {text: p.stat().st_size if p.is_file() else -1 for text, p in paths.items()}

    def _window(self, row: int) -> Window | None:
        columns = self._config.window
        return Window(*(self._cell(name, row) for name in columns)) if columns else None

    def _place(self, row: int, files: dict[str, Path]) -> tuple[float | None, float | None]:
        """Longitude and latitude from the table, or from the header of the first file."""
        if self._config.lon and self._config.lat:
            return self._cell(self._config.lon, row), self._cell(self._config.lat, row)
        name, path = next(iter(files.items()))
        return place_of(path, name, self._window(row))

    def _day(self, row: int) -> str | None:
        text = self._cell(self._config.date or "", row)
        day = iso_day(text) if text else None
        if text and day is None:
            raise SampleError(
                f"{self._config.table}: row {row + 1}: {text!r} is no day; write 2021-07-23"
            )
        return day

    def _check_rows(self, files: list[dict[str, Path]]) -> None:
        """Raise SourceError for the first row without a key, files, a window or a split."""
        config = self._config
        needed = (config.key, *(config.window or ()), *((config.split,) if config.split else ()))
        cells = {name: self._column(name) for name in needed} | {"file": files}
        for what, column in cells.items():
            row = next((i for i, cell in enumerate(column) if cell in (None, "", {})), None)
            if row is not None:
                raise SourceError(
                    f"{config.table}: row {row + 1} has no {what}; complete it or remove it"
                )

    def _num_bytes(self, row: int) -> int:
        texts, window = self._texts(row), self._window(row)
        if window is None:
            return sum(max(self._sizes[text], 0) for text in texts.values())
        rows = [modality(name) for name in texts]
        pixel_bytes = sum(r.num_bands * np.dtype(r.dtype).itemsize for r in rows)
        return window.height * window.width * pixel_bytes


def _read(path: Path, types: dict[str, Any]) -> Any:
    """A table of any of the columns in `types` that the file has, texts as texts."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path, columns=[n for n in pq.read_schema(path).names if n in types])
    from pyarrow import csv

    # An identifier such as 0012 must not become a number.
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
