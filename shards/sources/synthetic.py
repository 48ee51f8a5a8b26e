"""The synthetic Earth as a source: seeded, physically coupled samples made on the fly.

SYNTHETIC: nothing in these samples was measured. Numbers obtained on them describe this generator
and say nothing about the Earth. It is the embedded default and the test bed of the pipeline.

- Sample i is a pure function of (seed, i, tile_px). Every purpose has its own stream of random
  numbers, so that one modality does not move another one.
- One place makes everything: region, height and date give climate; climate and a fractal terrain
  give land cover and canopy; what the surface is made of gives optical and radar images alike.
  So land cover, height zones and canopy can be told from either sensor, as on the real Earth.
- Height shows: the tree line and the snow line follow the temperature, high land is rugged land
  (shading, layover), fields and settlements keep to flat valleys.
- NDVI is computed from the stored L2A bands; processing-baseline offset, clouds, speckle, 20 m and
  60 m bands and rare strips of nodata are as in the products. Land cover is a yearly composite:
  it has no clouds and no snow of the season.
- Land cover of two dates and OSM features as a map are made when the configuration names them; the
  later date is LULC, and the map says what the OSM tags say.
- Sentinel-2 and NDVI are made on further dates, in other seasons, when the configuration names them
  (`S2L2A_t1`, `NDVI_t1`, ...).
- Any modality may be missing; at least one image is left.
"""

import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import ConfigError
from configs.registry import in_registry_order, modality
from configs.schema import SyntheticSourceConfig
from configs.schema.modality import Modality, dated, undated
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef, make_listing, registry_rows
from shards.sources.earth import optics, words
from shards.sources.earth.change import cover_before
from shards.sources.earth.cover import make_cover
from shards.sources.earth.noise import Purpose, stream
from shards.sources.earth.optics import Optics
from shards.sources.earth.osm_map import osm_map
from shards.sources.earth.place import BLOCK_SIZE, Place, place_of, position, utm
from shards.sources.earth.radar import Radar
from shards.sources.earth.seasons import day_of, sentinel2_on
from shards.sources.earth.terrain import PIXEL_M, make_terrain

if TYPE_CHECKING:
    import pyarrow as pa

# raised whenever the content of any sample changes
GENERATOR_VERSION = 1
MODALITIES = (
    *("S2L1C", "S2L2A", "S2RGB", "S1GRD", "S1RTC", "Landsat", "DEM", "LULC", "CHM", "NDVI"),
    *("captions", "OSM", "coordinates", "date"),
)
# made for those who ask, so that data sets by default stay what they are
ON_REQUEST = ("LULCchange", "OSMraster")
ON_FURTHER_DATES = ("S2L2A", "NDVI")

_SHARE_WITH_EDGE = 0.015


class SyntheticSource:
    """`config.num_samples` samples of the synthetic Earth. Raises ConfigError for unknown names."""

    name = "synthetic"

    def __init__(self, config: SyntheticSourceConfig):
        self.config = config
        self.modalities = in_registry_order(config.modalities or MODALITIES)
        further = {
            m for m in self.modalities if undated(m)[1] and undated(m)[0] in ON_FURTHER_DATES
        }
        if strange := set(self.modalities) - {*MODALITIES, *ON_REQUEST, *further}:
            raise ConfigError(
                f"the synthetic Earth does not make {', '.join(sorted(strange))}; "
                f"it makes {', '.join((*MODALITIES, *ON_REQUEST))} and, on further dates, "
                f"{', '.join(dated(m, 1) for m in ON_FURTHER_DATES)}, ..."
            )
        for key, share in config.missing_by.items():
            modality(key)
            if not 0 <= share <= 1:
                raise ConfigError(f"missing_by.{key} is a share between 0 and 1, not {share}")
        shares = {m: config.missing_by.get(m, config.missing) for m in self.modalities}
        possible = [m for m in self.modalities if shares[m] < 1]
        if not possible:
            raise ConfigError("missing_by leaves no modality; set the share of one of them below 1")
        self._missing_share = shares
        # what a sample falls back to when chance would take everything
        self._anchors = [m for m in possible if modality(m).kind == "image"] or possible

    def fingerprint(self) -> str:
        """Hex digest of the configuration and the generator's version."""
        content = {
            "generator": GENERATOR_VERSION,
            "config": self.config.model_dump(mode="json"),
            "modalities": self.modalities,
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def rows(self) -> dict[str, Modality]:
        return registry_rows(self.modalities)

    def listing(self) -> "pa.Table":
        """All samples; each is made when it is asked for."""
        numbers = np.arange(self.config.num_samples)
        places = [position(self.config.seed, i) for i in numbers.tolist()]
        return make_listing(
            [_key(i) for i in numbers.tolist()],
            block=numbers // BLOCK_SIZE,
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=self._num_bytes(),
        )

    def read(self, ref: SampleRef) -> Sample:
        """The sample of a ref of this source."""
        return self.sample(ref.row)

    def sample(self, index: int) -> Sample:
        """Sample `index`, with the modalities that chance left it."""
        seed, px = self.config.seed, self.config.tile_px
        present = self._present(index)
        place = place_of(seed, index)
        everything = _render(place, seed, px, set(present))
        parts = {name: everything[name] for name in present}
        return Sample(_key(index), parts, _meta(place, seed, px, parts))

    def _present(self, index: int) -> tuple[str, ...]:
        orders = {m: modality(m).order for m in self.modalities}
        # indexed by registry order, so that a new modality leaves the others' chances alone
        draws = stream(self.config.seed, Purpose.MISSING, index).random(max(orders.values()) + 1)
        luck = {m: float(draws[order]) for m, order in orders.items()}
        present = {m for m in self.modalities if luck[m] >= self._missing_share[m]}
        if not present.intersection(self._anchors):
            present.add(max(self._anchors, key=lambda m: luck[m] - self._missing_share[m]))
        return in_registry_order(present)

    def _num_bytes(self) -> int:
        px, total = self.config.tile_px, 0
        for entry in map(modality, self.modalities):
            side = px * 10 // int(entry.gsd_m) if entry.gsd_m else 0
            width = 0 if entry.dtype == "utf8" else np.dtype(entry.dtype).itemsize
            total += entry.num_bands * side * side * width if entry.is_map else 64
        return total


def _key(index: int) -> str:
    return f"syn{index:09d}"


def _render(place: Place, seed: int, tile_px: int, wanted: set[str]) -> dict[str, Part]:
    """The wanted parts, and perhaps others that come with them."""
    terrain = make_terrain(place, seed, tile_px)
    cover = make_cover(place, terrain, seed, tile_px)
    parts: dict[str, Part] = {
        "DEM": np.rint(terrain.dem_m).astype(np.int16)[None],
        "LULC": cover.lulc[None].copy(),
        "CHM": cover.canopy_m[None],
        "OSM": words.osm_tags(place, terrain, cover),
        "captions": words.caption(place, terrain, cover, seed),
        "coordinates": np.array([place.lon, place.lat], np.float64),
        "date": place.day.isoformat(),
    }
    if wanted & {"S2L1C", "S2L2A", "S2RGB", "NDVI", "Landsat"}:
        camera = Optics(place, terrain, cover, seed)
        if wanted & {"S2L1C", "S2L2A", "S2RGB", "NDVI"}:
            parts["S2L2A"], l1c = camera.sentinel2("S2L1C" in wanted)
            if l1c is not None:
                parts["S2L1C"] = l1c
        if "Landsat" in wanted:
            parts["Landsat"] = camera.landsat()
    if wanted & {"S1GRD", "S1RTC"}:
        radar = Radar(place, terrain, cover, seed)
        parts["S1GRD"], parts["S1RTC"] = radar.grd(), radar.rtc()
    if "OSMraster" in wanted:
        parts["OSMraster"] = osm_map(cover)[None]
    _cut_edges(parts, place, seed)
    if "LULCchange" in wanted:
        parts["LULCchange"] = _two_dates(
            np.asarray(parts["LULC"]), cover_before(place, cover, seed)
        )
    if "S2L2A" in parts:
        l2a = np.asarray(parts["S2L2A"])
        parts["S2RGB"] = optics.true_colour(l2a, place.day)
        parts["NDVI"] = optics.ndvi(l2a)
    for date in sorted({undated(name)[1] for name in wanted} - {0}):
        l2a = sentinel2_on(place, terrain, seed, tile_px, date)
        parts |= {dated("S2L2A", date): l2a, dated("NDVI", date): optics.ndvi(l2a)}
    return parts


def _two_dates(lulc: np.ndarray, before: np.ndarray) -> np.ndarray:
    nodata = modality("LULC").nodata
    return np.stack([np.where(lulc[0] == nodata, lulc[0], before), lulc[0]])


def _cut_edges(parts: dict[str, Part], place: Place, seed: int) -> None:
    """Rarely, a strip of nodata along one side, as at the edge of a swath; in place."""
    draws = stream(seed, Purpose.EDGES, place.index).random((5, 3))
    groups = (("S2L2A", "S2L1C"), ("S1GRD", "S1RTC"), ("Landsat",), ("LULC",), ("CHM",))
    for names, (chance, side, width) in zip(groups, draws, strict=True):
        if chance >= _SHARE_WITH_EDGE:
            continue
        for name in names:
            array = parts.get(name)
            if isinstance(array, np.ndarray):
                strip = max(1, int(0.25 * width * array.shape[-1]))
                turned = np.rot90(array, int(4 * side), (1, 2))
                turned[:, :strip] = modality(name).nodata


def _meta(place: Place, seed: int, tile_px: int, parts: dict[str, Part]) -> SampleMeta:
    epsg, easting, northing = utm(place.lon, place.lat)
    # the grid of 10 m that Sentinel-2 products share
    left = round((easting - tile_px * PIXEL_M / 2) / PIXEL_M) * PIXEL_M
    top = round((northing + tile_px * PIXEL_M / 2) / PIXEL_M) * PIXEL_M
    days: dict[str, dt.date] = {
        "S2L1C": place.day,
        "S2L2A": place.day,
        "S2RGB": place.day,
        "NDVI": place.day,
        "S1GRD": place.s1_day,
        "S1RTC": place.rtc_day,
        "Landsat": place.landsat_day,
    }
    days |= {name: day_of(place, seed, date) for name in parts if (date := undated(name)[1])}
    return SampleMeta(
        lon=place.lon,
        lat=place.lat,
        crs=f"EPSG:{epsg}",
        transform=(PIXEL_M, 0.0, left, 0.0, -PIXEL_M, top),
        times={name: day.isoformat() for name, day in days.items() if name in parts},
        source=SyntheticSource.name,
    )
