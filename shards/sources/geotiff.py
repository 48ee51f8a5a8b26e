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

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality_registry
from configs.schema import GeoTiffSourceConfig
from configs.schema.modality import Modality, undated
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Sample
from shards.sources.base import SampleRef, make_listing, newest_of, registry_rows
from shards.sources.maps import DERIVED, Map, check_header, place_of, read_map, sample_of
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa


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

    def newest(self) -> tuple[float, Path]:
        """See `OfFiles`."""
        return newest_of(path for files in self._files.values() for path in files.values())

    def listing(self) -> "pa.Table":
        """All ids in alphabetical order; headers are read, pixels are not.

        Raises SourceError when the first file of a modality has not the registry's bands: then the
        folder, not a sample, is wrong.
        """
        for name, files in self._files.items():
            check_header(next(iter(files.values())), name)
        maps = [
            {name: files[stem] for name, files in self._files.items() if stem in files}
            for stem in self._ids.values()
        ]
        places = [place_of(next(iter(found.values())), next(iter(found))) for found in maps]
        return make_listing(
            list(self._ids),
            block=np.arange(len(maps)),
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=[sum(p.stat().st_size for p in found.values()) for found in maps],
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every map of the id; unreadable ones are faults. Raises SampleError if they do not align."""
        stem = self._ids[ref.key]
        maps: dict[str, Map] = {}
        faults: dict[str, str] = {}
        for name, files in self._files.items():
            if stem in files:
                try:
                    maps[name] = read_map(files[stem], name)
                except (SampleError, OSError) as error:
                    faults[name] = str(error)
        return sample_of(ref.key, maps, faults, self.name, self._derived)

    @functools.cached_property
    def _folders(self) -> dict[str, Path]:
        """Folders of map modalities, in registry order. Warns of those no modality is named after."""
        maps = {name for name, row in modality_registry().items() if row.is_map}
        folders = sorted(p for p in self._path.iterdir() if p.is_dir())
        found = {p.name: p for p in folders if undated(p.name)[0] in maps}
        others = [p.name for p in folders if p.name not in found]
        strange = [name for name in others if not name.startswith(".")]
        if strange:
            warnings.warn(
                f"{self._path}: left out {', '.join(strange)}: not among the map modalities of the "
                f"registry ({', '.join(in_registry_order(maps))})",
                stacklevel=2,
            )
        chosen = {n for n in found if not self._wanted or n in self._wanted}
        missing = [n for n in self._wanted if n not in chosen and n not in DERIVED]
        if missing:
            raise SourceError(
                f"{self._path} has no folder {', '.join(missing)}; it has "
                f"{', '.join([*found, *others])}: "
                "change source.modalities"
            )
        if not chosen:
            raise SourceError(
                f"{self._path} holds no folder named after a map modality ("
                f"{', '.join(in_registry_order(maps))}); found {', '.join(others) or 'no folders'}"
            )
        return {name: found[name] for name in in_registry_order(chosen)}

    @property
    def _derived(self) -> set[str]:
        return set(DERIVED if not self._wanted else set(DERIVED) & set(self._wanted))

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
