"""A folder per modality, a GeoTIFF per sample: `PATH/<MODALITY>/<id>.tif`.

- A sample is an id found in any folder; a modality is missing where its folder lacks the id.
- All maps of an id must show the same place: same CRS, same bounds (to half a pixel of 10 m) and
  sizes that agree with their pixel sizes. A sample that breaks this is unusable as a whole, because
  nothing says which of its maps is right.
- Values are converted to the registry's type only where nothing is lost (float64 -> float32 rounds);
  the file's nodata value becomes the registry's.
- `coordinates` come from the georeferencing; `date` is the day in the tags of the first modality, in
  registry order, that has one. Either is missing where the files do not say.
"""

import datetime
import functools
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality, modality_registry
from configs.schema import GeoTiffSourceConfig
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.grid import Grid, centre, difference, grid_of
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa

_TIME_TAGS = ("datetime", "TIFFTAG_DATETIME", "ACQUISITION_DATE", "acquisition_date", "date")
_DERIVED = ("coordinates", "date")


class _Map(NamedTuple):
    """One file, read."""

    array: np.ndarray
    grid: Grid
    day: str | None
    lonlat: tuple[float, float] | None


class GeoTiffSource:
    """Aligned GeoTIFFs as samples. Raises SourceError when the folder does not hold them."""

    name = "geotiff"

    def __init__(self, config: GeoTiffSourceConfig) -> None:
        self._path = config.path
        self._suffix = config.suffix
        self._wanted = config.modalities
        if not self._path.is_dir():
            raise SourceError(
                f"{self._path}: no such folder; write source.path=FOLDER, where FOLDER holds a "
                f"folder per modality with one GeoTIFF per sample: FOLDER/S2L2A/ID{self._suffix}"
            )

    @property
    def rows(self) -> dict[str, Modality]:
        """Maps with a folder, and what georeferencing and tags give; or those configured of them."""
        return registry_rows(in_registry_order({*self._folders, *self._derived}))

    def fingerprint(self) -> str:
        """Digest of the names and sizes of all files and of the options that choose them."""
        sizes = {
            name: sorted((path.name, path.stat().st_size) for path in files.values())
            for name, files in self._files.items()
        }
        return xxhash.xxh3_128_hexdigest(to_json([self.name, sizes, list(self.rows)]))

    def listing(self) -> "pa.Table":
        """All ids in alphabetical order; headers are read, pixels are not.

        Raises SourceError when the first file of a modality has not the registry's bands: then the
        folder, not a sample, is wrong.
        """
        for name, files in self._files.items():
            with self._open(next(iter(files.values())), SourceError) as file:
                self._check_bands(file, modality(name), SourceError)
        paths = [
            [files[stem] for files in self._files.values() if stem in files]
            for stem in self._ids.values()
        ]
        places = [self._place(found[0]) for found in paths]
        return make_listing(
            list(self._ids),
            block=np.arange(len(paths)),
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=[sum(path.stat().st_size for path in found) for found in paths],
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every map of the id; unreadable ones are faults. Raises SampleError if they do not align."""
        stem = self._ids[ref.key]
        maps: dict[str, _Map] = {}
        faults: dict[str, str] = {}
        for name, files in self._files.items():
            if stem in files:
                try:
                    maps[name] = self._read_map(files[stem], name)
                except (SampleError, OSError) as error:
                    faults[name] = str(error)
        if not maps:
            raise SampleError("; ".join(faults.values()))
        grid = self._common_grid(ref.key, maps)
        lonlat = next((m.lonlat for m in maps.values() if m.lonlat), None)
        times = {name: m.day for name, m in maps.items() if m.day}
        parts: dict[str, Part] = {name: m.array for name, m in maps.items()}
        if lonlat and "coordinates" in self._derived:
            parts["coordinates"] = np.array(lonlat, np.float64)
        if times and "date" in self._derived:
            parts["date"] = next(iter(times.values()))
        meta = SampleMeta(
            lon=lonlat[0] if lonlat else None,
            lat=lonlat[1] if lonlat else None,
            crs=grid.crs,
            transform=grid.transform,
            times=times,
            source=self.name,
        )
        return Sample(ref.key, parts, meta, faults)

    @functools.cached_property
    def _folders(self) -> dict[str, Path]:
        """Folders of map modalities, in registry order. Warns of those no modality is named after."""
        registry = modality_registry()
        maps = {name for name, row in registry.items() if row.is_map}
        found = {p.name: p for p in sorted(self._path.iterdir()) if p.is_dir()}
        strange = [name for name in found if name not in maps and not name.startswith(".")]
        if strange:
            warnings.warn(
                f"{self._path}: left out {', '.join(strange)}: not among the map modalities of the "
                f"registry ({', '.join(in_registry_order(maps))})",
                stacklevel=2,
            )
        chosen = {n for n in found if n in maps and (not self._wanted or n in self._wanted)}
        missing = [n for n in self._wanted if n not in chosen and n not in _DERIVED]
        if missing:
            raise SourceError(
                f"{self._path} has no folder {', '.join(missing)}; it has {', '.join(found)}: "
                "change source.modalities"
            )
        if not chosen:
            raise SourceError(
                f"{self._path} holds no folder named after a map modality ("
                f"{', '.join(in_registry_order(maps))}); found {', '.join(found) or 'no folders'}"
            )
        return {name: found[name] for name in in_registry_order(chosen)}

    @property
    def _derived(self) -> set[str]:
        return set(_DERIVED if not self._wanted else set(_DERIVED) & set(self._wanted))

    @functools.cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        """Modality -> id -> file, both in order; modalities without files are left out."""
        listed = {}
        for name, folder in self._folders.items():
            files = {p.name.removesuffix(self._suffix): p for p in self._listing(folder)}
            if files:
                listed[name] = files
        if not listed:
            raise SourceError(
                f"{self._path}: no file in {', '.join(self._folders)} ends in {self._suffix}; "
                "write source.suffix=.SUFFIX"
            )
        return listed

    def _listing(self, folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.name.endswith(self._suffix) and p.is_file())

    @functools.cached_property
    def _ids(self) -> dict[str, str]:
        """Key -> id, alphabetical."""
        stems = {stem for files in self._files.values() for stem in files}
        return {escape_key(stem): stem for stem in sorted(stems)}

    def _place(self, path: Path) -> tuple[float | None, float | None]:
        try:
            with self._open(path, SampleError) as file:
                return centre(file) or (None, None)
        except SampleError:
            # Listed all the same: reading it fails again and is told with its reason.
            return None, None

    def _read_map(self, path: Path, name: str) -> _Map:
        row = modality(name)
        with self._open(path, SampleError) as file:
            self._check_bands(file, row, SampleError)
            try:
                pixels = file.read()
            except _rasterio().errors.RasterioError as error:
                raise SampleError(f"{path}: pixels cannot be read: {error}") from error
            invalid = _invalid(pixels, file.nodata)
            return _Map(
                array=_convert(pixels, invalid, row, path),
                grid=grid_of(file, row),
                day=_day(file.tags()),
                lonlat=centre(file),
            )

    def _check_bands(
        self, file: Any, row: Modality, error: type[SampleError | SourceError]
    ) -> None:
        if file.count != row.num_bands:
            raise error(
                f"{file.name}: {row.name} needs {row.num_bands} bands ({', '.join(row.bands)}), "
                f"this file has {file.count}; write those bands in that order, or leave the "
                "modality out with source.modalities=[...]"
            )

    @contextmanager
    def _open(self, path: Path, error: type[SampleError | SourceError]) -> Iterator[Any]:
        rasterio = _rasterio()
        with warnings.catch_warnings():
            # A file without georeferencing is a sample without coordinates, which we tell ourselves.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            try:
                file = rasterio.open(path)
            except rasterio.errors.RasterioError as caught:
                raise error(f"{path}: not readable as GeoTIFF: {caught}") from caught
            with file:
                yield file

    def _common_grid(self, key: str, maps: dict[str, _Map]) -> Grid:
        first, *others = maps
        grid = maps[first].grid
        for name in others:
            wrong = difference(grid, maps[name].grid)
            if wrong:
                raise SampleError(f"{key}: {first} and {name} do not show the same place: {wrong}")
            # The first georeferenced map speaks for those that are not.
            grid = grid if grid.transform else maps[name].grid
        return grid


def _day(tags: dict[str, str]) -> str | None:
    """The acquisition day in a TIFF's tags; TIFF itself writes 2021:07:23 13:22:41."""
    for tag in _TIME_TAGS:
        match = re.match(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})", tags.get(tag, ""))
        if match:
            try:
                return datetime.date(*map(int, match.groups())).isoformat()
            except ValueError:
                continue
    return None


def _invalid(pixels: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Pixels the file marks as without measurement; NaN counts as such where it cannot be kept."""
    invalid = np.isnan(pixels) if pixels.dtype.kind == "f" else None
    if nodata is not None and not math.isnan(nodata):
        # A file's type may not hold its nodata value (-99999 in int16): then nothing is marked.
        with np.errstate(over="ignore"):
            marked = pixels == nodata
        invalid = marked if invalid is None else invalid | marked
    return invalid


def _convert(
    pixels: np.ndarray, invalid: np.ndarray | None, row: Modality, path: Path
) -> np.ndarray:
    """The same values in the registry's type, nodata replaced. Raises SampleError if any is lost."""
    target = np.dtype(row.dtype)
    if invalid is None or row.nodata is None:
        invalid = np.zeros(pixels.shape, bool)
    values = np.where(invalid, pixels.dtype.type(0), pixels)
    if target.kind in "iu":
        bounds = np.iinfo(target)
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise SampleError(f"{path}: {row.name} is {target}, the file has fractions (or NaN)")
        if values.min() < bounds.min or values.max() > bounds.max:
            raise SampleError(
                f"{path}: values {values.min():g} .. {values.max():g} do not fit into {row.name}'s "
                f"{target} ({bounds.min} .. {bounds.max})"
            )
        converted = values.astype(target)
    else:
        with np.errstate(over="ignore"):
            converted = values.astype(target)
        if np.isinf(converted).sum() > (np.isinf(values).sum() if values.dtype.kind == "f" else 0):
            raise SampleError(f"{path}: values too large for {row.name}'s {target}")
    if invalid.any():
        converted[invalid] = row.nodata
    return np.ascontiguousarray(converted)


@functools.cache
def _rasterio() -> Any:
    import rasterio
    import rasterio.errors

    return rasterio
