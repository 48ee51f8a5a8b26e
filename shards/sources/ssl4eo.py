"""SSL4EO-S12 v1.1: 64 places of four seasons in every zipped zarr store, a store per modality.

    PATH/{train,val}/{S2L1C,S2L2A,S1GRD,S2RGB}/ssl4eos12_{split}_seasonal_data_NNNNNN.zarr.zip

- Every place and season is a sample, `<place>_<season>`, or with `together` every place with its seasons
  as dates. A block is a store's name, with the stores
  of all its modalities; places are joined by their names in the coordinate `sample`, never by their
  position, so stores may order them differently or lack some.
- Only the chunks of the sample asked for are decoded. Samples are listed season by season, because a
  chunk may hold one season of many places.
- Listing reads the names and centres of each store and no pixels; the `splits/` folder is not needed.
- Values are those of the stores; S1GRD keeps its NaN.
- `modalities` that name CloudMask get the cloud mask of the first optical store that has the sample.
"""

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality
from configs.schema import Ssl4eoSourceConfig
from configs.schema.modality import Modality, dated
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Sample
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.recent import Recent
from shards.sources.zarrmaps import (
    OPTICAL,
    Clouds,
    ZarrMap,
    as_times,
    check_wish,
    come_along,
    make_sample,
    read_map,
)
from shards.sources.zarrzip import ZarrZip
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa

MAPS = ("S2L1C", "S2L2A", "S2RGB", "S1GRD")

_SUFFIX = ".zarr.zip"
_NUM_SEASONS = 4
_PLACE = {
    "x_": "x",
    "y_": "y",
    "crs": "crs",
    "center_lon": "center_lon",
    "center_lat": "center_lat",
}


class _Block(NamedTuple):
    """One store name: the unit whose samples are read together."""

    split: str
    store: str


class _Places:
    """An open store and where each place lies in it, by escaped name."""

    def __init__(self, path: Path) -> None:
        self.zarr = ZarrZip(path, str(path))
        names = self.zarr.read("sample").reshape(-1).astype(str).tolist()
        self.rows = {escape_key(name): i for i, name in enumerate(names)}
        if len(self.rows) < len(names):
            raise SampleError(f"{path}: a place comes twice in `sample`; download it again")

    def close(self) -> None:
        self.zarr.close()

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude of every place, degrees."""
        lon, lat = self.zarr.read("center_lon"), self.zarr.read("center_lat")
        if not lon.shape == lat.shape == (len(self.rows),):
            raise SampleError(f"{self.zarr.where}: {len(self.rows)} places, {lon.shape} centres")
        return lon, lat


class Ssl4eoSource:
    """SSL4EO-S12 as samples. Raises SourceError when the folder does not hold it."""

    name = "ssl4eo"

    def __init__(self, config: Ssl4eoSourceConfig) -> None:
        self._config = config
        # Two blocks: the plan may end a shard in one and begin the next.
        self._open: Recent[tuple[int, str], _Places] = Recent(2 * len(MAPS))
        check_wish(config.modalities, MAPS, "SSL4EO-S12")

    @property
    def rows(self) -> dict[str, Modality]:
        """Maps that have stores, on all dates, and what comes with them; or those configured of them."""
        maps = {dated(name, k) for name in self._maps for k in range(len(self._dates[0]))}
        return registry_rows(in_registry_order({*maps, *come_along(self._config.modalities)}))

    def fingerprint(self) -> str:
        """Digest of the names and sizes of all stores and of the options."""
        stores = [[*block, sorted(sizes.items())] for block, sizes in self._store_sizes.items()]
        # As it was for those who do not ask for it.
        together = ["together"] if self._config.together else []
        content = [self.name, stores, list(self.rows), list(self._config.seasons), *together]
        return xxhash.xxh3_128_hexdigest(to_json(content))

    def listing(self) -> "pa.Table":
        """All places and seasons, block by block, with the split they come in.

        Raises SourceError when all stores of a block are damaged.
        """
        keys, numbers, rows, splits, sizes = [], [], [], [], []
        places: list[tuple[float, float]] = []
        for number, (block, num_bytes) in enumerate(self._store_sizes.items()):
            found = self._centres(number)
            for seasons in self._dates:
                keys += [self._key(place, seasons) for place in found]
                rows += range(seasons[0] * len(found), (seasons[0] + 1) * len(found))
                places += found.values()
            count = len(found) * len(self._dates)
            numbers += [number] * count
            splits += [block.split] * count
            season_bytes = sum(num_bytes.values()) // max(len(found) * _NUM_SEASONS, 1)
            sizes += [season_bytes * len(self._dates[0])] * count
        return make_listing(
            keys,
            block=numbers,
            row=rows,
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=sizes,
            split=splits,
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every map of a place in its seasons; unreadable ones are faults. Raises SampleError."""
        place, seasons = ref.key, self._dates[0]
        if not self._config.together:
            place, _, text = ref.key.rpartition("_")
            seasons = (int(text),)
        maps: dict[str, ZarrMap] = {}
        faults: dict[str, str] = {}
        clouds = Clouds()
        held = [n for n in self._maps if n in self._store_sizes[self._blocks[ref.block]]]
        for (date, season), name in itertools.product(enumerate(seasons), held):
            try:
                store = self._store(ref.block, name)
                i = store.rows.get(place)
                if i is None or store.zarr.shape("bands")[1:2] <= (season,):
                    continue
                variables = _variables(store.zarr, i, season)
                found = read_map(variables, modality(name), store.zarr.where)
                has_mask = name in OPTICAL and "cloud_mask" in store.zarr
                if not date and has_mask and clouds.share is None:
                    clouds.add(store.zarr.read("cloud_mask", i, season), found, store.zarr.where)
            except (SampleError, OSError) as error:
                faults[dated(name, date)] = str(error)
            else:
                maps[dated(name, date)] = found
        if not maps and not faults:
            raise SampleError(f"{ref.key}: no store of {'/'.join(self._blocks[ref.block])} has it")
        return make_sample(ref.key, self.name, maps, faults, self.rows, clouds)

    @property
    def _dates(self) -> list[tuple[int, ...]]:
        """The seasons of each sample of a place."""
        seasons = self._config.seasons
        return [seasons] if self._config.together else [(season,) for season in seasons]

    def _key(self, place: str, seasons: tuple[int, ...]) -> str:
        return place if self._config.together else f"{place}_{seasons[0]}"

    @functools.cached_property
    def _store_sizes(self) -> dict[_Block, dict[str, int]]:
        """All blocks in order, with the bytes of their stores by modality."""
        root, sizes = self._config.path, {}
        for split in self._config.splits:
            found: dict[_Block, dict[str, int]] = {}
            for name in MAPS:
                for path in (root / split / name).glob(f"*{_SUFFIX}"):
                    found.setdefault(_Block(split, path.name), {})[name] = path.stat().st_size
            sizes |= {block: found[block] for block in sorted(found)}
        if not sizes:
            raise SourceError(
                f"{root}: no stores of splits {', '.join(self._config.splits)}; write "
                "source.path=FOLDER, where FOLDER holds {train,val}/<MODALITY>/*.zarr.zip"
            )
        return sizes

    @functools.cached_property
    def _blocks(self) -> list[_Block]:
        return list(self._store_sizes)

    @functools.cached_property
    def _maps(self) -> tuple[str, ...]:
        """Modalities to read, in registry order."""
        there = {name for sizes in self._store_sizes.values() for name in sizes}
        wanted = set(self._config.modalities) & set(MAPS)
        if not wanted <= there:
            raise SourceError(
                f"{self._config.path} has no stores of {', '.join(sorted(wanted - there))}; it has "
                f"{', '.join(in_registry_order(there))}: change source.modalities"
            )
        return in_registry_order(wanted or there)

    def _store(self, block: int, name: str) -> _Places:
        split, store = self._blocks[block]
        path = self._config.path / split / name / store
        return self._open.get((block, name), lambda: _Places(path))

    def _centres(self, block: int) -> dict[str, tuple[float, float]]:
        """Longitude and latitude of the places that any store of a block has, by escaped name."""
        found: dict[str, tuple[float, float]] = {}
        damage = []
        for name in self._maps:
            if name in self._store_sizes[self._blocks[block]]:
                try:
                    store = self._store(block, name)
                    lon, lat = store.centres()
                except SampleError as error:
                    # The other stores name its places; reading it fails again and is told as a fault.
                    damage.append(str(error))
                    continue
                for place, i in store.rows.items():
                    found.setdefault(place, (float(lon[i]), float(lat[i])))
        if damage and not found:
            raise SourceError(f"{'; '.join(damage)}; download these again, or remove them")
        return found


def _variables(store: ZarrZip, place: int, season: int) -> dict[str, np.ndarray]:
    """The variables of one place and season."""
    found = {new: np.asarray(store.read(old, place)) for old, new in _PLACE.items() if old in store}
    found["bands"] = store.read("bands", place, season)
    if "band" in store:
        found["band"] = store.read("band")
    if "file_id" in store:
        found["file_id"] = store.read("file_id", place, season)
    if "time_" in store:
        time = store.read("time_", place, season)
        found["time"] = as_times(time, store.attributes("time_"), store.where)
    return found
