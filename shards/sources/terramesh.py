"""TerraMesh: a tar per shard and modality, in it a zipped zarr store per sample.

    PATH/{train,val}/<MODALITY>/{majortom,ssl4eos12}_shard_NNNNNN.tar     members KEY.zarr.zip
    PATH/{train,val}_metadata.parquet                                     optional

- Shards are those that are there; their numbers differ between releases. A block is a shard name, with
  the tars of all its modalities. Members are joined by key, never by position: radar is S1RTC in one
  subset and S1GRD in the other, and any tar may lack any sample.
- With the parquet, it says which samples there are and where they lie. Without it the tars' headers
  do, and places are known only once a sample is read: take `splits: source` then, because splits by
  grid cell need the places before.
- A tar that was cut, a damaged store, other bands than the registry's: the sample goes without that
  modality, and the fault is told.
- Values are those of the stores. S1GRD, S1RTC and NDVI keep their NaN; DEM is rounded to metres.
- From products acquired from 2022-01-25 on, the data set took the 1,000 that processing baseline 04.00
  adds to Sentinel-2 values. Older acquisitions that were processed again still have it, so the values
  of the two differ by 1,000. `harmonise_s2` gives it back; a missing measurement, which has become
  -1,000, is 0 again. NDVI stays as it is.
- `modalities` that name CloudMask get the cloud mask of the first optical store of the sample.
- From a URL, whole tars are fetched (see `remote`); which there are, only the parquet tells.
"""

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality
from configs.schema import TerraMeshSourceConfig
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.files import to_json
from shards.sample import Sample
from shards.sources import terramesh_metadata
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.local import LocalFolder
from shards.sources.recent import Recent
from shards.sources.remote import RemoteFolder
from shards.sources.tarindex import TarIndex
from shards.sources.terramesh_metadata import SUFFIX
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

if TYPE_CHECKING:
    import pyarrow as pa

MAPS = ("S2L1C", "S2L2A", "S2RGB", "S1GRD", "S1RTC", "DEM", "LULC", "NDVI")

_LAYOUT = "{train,val}/<MODALITY>/{majortom,ssl4eos12}_shard_NNNNNN.tar"
_SHARD = re.compile(r"([A-Za-z0-9]+)_shard_\d+\.tar")
_OFFSET = 1000
_OFFSET_BASELINE = 400
_OFFSET_DAY = "2022-01-25"


class _Block(NamedTuple):
    """One shard name: the unit whose samples are read together."""

    split: str
    shard: str


class _Tars(dict[str, TarIndex | None]):
    """The open tars of one block by modality, None where the block has no such tar."""

    def close(self) -> None:
        for tar in self.values():
            if tar:
                tar.close()


class TerraMeshSource:
    """TerraMesh as samples. Raises SourceError when the folder or the URL does not hold it."""

    name = "terramesh"

    def __init__(self, config: TerraMeshSourceConfig) -> None:
        self._config = config
        self._open: Recent[int, _Tars] = Recent(2)
        check_wish(config.modalities, MAPS, "TerraMesh")
        if config.is_remote:
            assert config.cache is not None
            self._folder = RemoteFolder(config.path, config.cache, int(config.cache_gb * 1e9))
        else:
            self._folder = LocalFolder(Path(config.path))

    @property
    def rows(self) -> dict[str, Modality]:
        """Maps that have tars, and what comes with them; or those configured of them."""
        return registry_rows(in_registry_order({*self._maps, *come_along(self._config.modalities)}))

    def fingerprint(self) -> str:
        """Digest of names and sizes of all tars (at a URL: the URL), the parquets and the options."""
        tars = [[*block, sorted(sizes.items())] for block, sizes in self._tar_sizes.items()]
        content = [
            *(self.name, tars, list(self.rows), self._config.harmonise_s2),
            [terramesh_metadata.digest(self._folder, split) for split in self._config.splits],
            self._config.path if self._config.is_remote else "",
        ]
        return xxhash.xxh3_128_hexdigest(to_json(content))

    def listing(self) -> "pa.Table":
        """All samples, block by block, with the split they come in.

        Raises SourceError when a block's tars are all too damaged to say what they hold.
        """
        import pyarrow as pa

        keys, lon, lat, num_bytes, counts = [], [], [], [], []
        told: dict[_Block, terramesh_metadata.Samples] = {}
        for split in self._splits:
            found = terramesh_metadata.read(self._folder, split) or {}
            told |= {_Block(split, shard): samples for shard, samples in found.items()}
        for number, (block, sizes) in enumerate(self._tar_sizes.items()):
            if block in told:
                samples = told[block]
                total = sum(sizes.values())
                each = np.full(len(samples.keys), total // max(len(samples.keys), 1))
            else:
                samples, each = self._walk(number)
            keys.append(samples.keys)
            lon.append(samples.lon)
            lat.append(samples.lat)
            num_bytes.append(each)
            counts.append(len(samples.keys))
        return make_listing(
            pa.concat_arrays(keys),
            block=np.repeat(np.arange(len(counts)), counts),
            lon=np.concatenate(lon),
            lat=np.concatenate(lat),
            num_bytes=np.concatenate(num_bytes),
            split=np.repeat([block.split for block in self._blocks], counts).tolist(),
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every map of the sample; unreadable ones are faults. Raises SampleError without any."""
        maps: dict[str, ZarrMap] = {}
        faults: dict[str, str] = {}
        clouds = Clouds()
        for name in self._maps:
            try:
                tar = self._tar(ref.block, name)
                data = tar.read(ref.key) if tar else None
                if tar is None or data is None:
                    continue
                store = ZarrZip(data, f"{tar.where}: {ref.key}")
                found = read_map(_variables(store), modality(name), store.where)
                if clouds.share is None and name in OPTICAL and "cloud_mask" in store:
                    clouds.add(store.read("cloud_mask"), found, store.where)
            except (SampleError, OSError) as error:
                faults[name] = str(error)
            else:
                maps[name] = self._harmonised(found, name)
        if not maps and not faults:
            raise SampleError(
                f"{ref.key}: no tar of {'/'.join(self._blocks[ref.block])} has it, although the "
                "parquet lists it; download the tars again, or remove the parquet to list the tars"
            )
        return make_sample(ref.key, self.name, maps, faults, self.rows, clouds)

    @functools.cached_property
    def _tar_sizes(self) -> dict[_Block, dict[str, int]]:
        """All blocks in order; at a folder with the bytes of their tars by modality."""
        config = self._config
        if config.is_remote:
            blocks = {
                _Block(split, shard): {}
                for split in config.splits
                for shard in terramesh_metadata.shards(self._folder, split)
                if self._wanted(shard)
            }
            if not blocks:
                raise SourceError(
                    f"{config.path}: no shards of {_wish(config)} in {{split}}_metadata.parquet, "
                    "which is needed to know the shards behind a URL; correct source.path and "
                    "source.splits, or download the data set and give its folder"
                )
            return blocks
        blocks = {}
        root = Path(config.path)
        for split in config.splits:
            for name in MAPS:
                for path in (root / split / name).glob("*_shard_*.tar"):
                    if self._wanted(path.name):
                        sizes = blocks.setdefault(_Block(split, path.name), {})
                        sizes[name] = path.stat().st_size
        if not blocks:
            raise SourceError(
                f"{root}: no shards of {_wish(config)}; write source.path=FOLDER, where FOLDER "
                f"holds {_LAYOUT}"
            )
        order = {split: i for i, split in enumerate(config.splits)}
        return {b: blocks[b] for b in sorted(blocks, key=lambda b: (order[b.split], b.shard))}

    @functools.cached_property
    def _blocks(self) -> list[_Block]:
        return list(self._tar_sizes)

    @property
    def _splits(self) -> list[str]:
        return list(dict.fromkeys(block.split for block in self._blocks))

    @functools.cached_property
    def _maps(self) -> tuple[str, ...]:
        """Modalities to read, in registry order."""
        wanted = set(self._config.modalities) & set(MAPS) or set(MAPS)
        if self._config.is_remote:
            return in_registry_order(wanted)
        there = {name for sizes in self._tar_sizes.values() for name in sizes}
        if self._config.modalities and not wanted <= there:
            raise SourceError(
                f"{self._config.path} has no tars of {', '.join(sorted(wanted - there))}; it has "
                f"{', '.join(in_registry_order(there))}: change source.modalities"
            )
        return in_registry_order(wanted & there)

    def _wanted(self, shard: str) -> bool:
        match = _SHARD.fullmatch(shard)
        return bool(match) and (not self._config.subsets or match[1] in self._config.subsets)

    def _tar(self, block: int, name: str) -> TarIndex | None:
        tars = self._open.get(block, _Tars)
        if name not in tars:
            split, shard = self._blocks[block]
            relative = f"{split}/{name}/{shard}"
            file = self._folder.open(relative)
            tars[name] = TarIndex(file, SUFFIX, f"{self._folder}/{relative}") if file else None
        return tars[name]

    def _walk(self, block: int) -> tuple[terramesh_metadata.Samples, np.ndarray]:
        """The samples that any tar of a block names, places unknown, and the bytes of each."""
        num_bytes: dict[str, int] = {}
        damage = []
        for name in self._maps:
            tar = self._tar(block, name)
            for key, size in tar.sizes.items() if tar else ():
                num_bytes[key] = num_bytes.get(key, 0) + size
            damage += [tar.damage] if tar and tar.damage else []
        if damage and not num_bytes:
            raise SourceError(f"{'; '.join(damage)}; download these tars again, or remove them")
        samples = terramesh_metadata.nowhere(list(num_bytes))
        return samples, np.array(list(num_bytes.values()), np.int64)

    def _harmonised(self, found: ZarrMap, name: str) -> ZarrMap:
        if not self._config.harmonise_s2 or name not in ("S2L1C", "S2L2A"):
            return found
        if not offset_was_taken(found.product, found.map.day):
            return found
        pixels = found.map.array
        highest = np.iinfo(pixels.dtype).max - _OFFSET
        raised = np.minimum(pixels, highest) + pixels.dtype.type(_OFFSET)
        return found._replace(map=found.map._replace(array=raised))


def offset_was_taken(product: str | None, day: str | None) -> bool:
    """Whether TerraMesh took the offset of 1,000 from a Sentinel-2 product, by its id and its day.

    It did so by the day of acquisition. A product of a baseline before 04.00 had none to take.
    """
    baseline = re.search(r"_N(\d{4})_", product or "")
    if baseline and int(baseline[1]) < _OFFSET_BASELINE:
        return False
    sensed = re.search(r"(?<!\d)(\d{4})(\d\d)(\d\d)T\d{6}", product or "")
    acquired = day or (sensed and "-".join(sensed.groups())) or ""
    return acquired >= _OFFSET_DAY


def _variables(store: ZarrZip) -> dict[str, np.ndarray]:
    """The variables of a sample's store, without the axis of its only date."""
    found = {name: store.read(name) for name in ("band", "x", "y") if name in store}
    bands = found["bands"] = store.read("bands")
    if bands.ndim == 4:
        if bands.shape[0] != 1:
            raise SampleError(f"{store.where}: {bands.shape[0]} dates, TerraMesh has one a sample")
        found["bands"] = bands[0]
    for name in ("crs", "center_lon", "center_lat", "file_id", "time"):
        if name in store and store.shape(name) in ((), (1,)):
            found[name] = store.read(name).reshape(())
    if "time" in found:
        found["time"] = as_times(found["time"], store.attributes("time"), store.where)
    return found


def _wish(config: TerraMeshSourceConfig) -> str:
    subsets = f" in subsets {', '.join(config.subsets)}" if config.subsets else ""
    return f"splits {', '.join(config.splits)}{subsets}"
