"""Land cover and canopy of one tile, and what its surface is made of on the day of the image.

- The class follows from height (tree line, snow line), wetness, slope, and then from people: fields
  where land is flat and warm, settlements near the valley. Classes as in configs/modalities/LULC.
- Canopy height follows from class, summer temperature, moisture and stand.
- `fractions` say how much of each pixel is which material (see materials.py); optical and radar
  signals are mixtures of the same fractions, which is what couples them.
"""

from dataclasses import dataclass

import numpy as np

from shards.sources.earth.materials import MATERIALS, Material
from shards.sources.earth.noise import Purpose, correlated_fields, padded_px, stream
from shards.sources.earth.parcels import (
    Settlement,
    make_settlement,
    pivot_parcels,
    road,
    strip_parcels,
)
from shards.sources.earth.place import LAPSE_K_PER_M, Place
from shards.sources.earth.terrain import Terrain

WATER, TREES, FLOODED, CROPS, BUILT, BARE, SNOW, RANGELAND = 1, 2, 3, 4, 5, 6, 7, 9


@dataclass(frozen=True)
class Cover:
    """Maps of one tile, (H, W): class (uint8), canopy height in metres, wetness 0..1, fine texture.

    `fractions` (materials, H, W) sum to 1 in every pixel; `texture` has unit variance; `settlement`
    stands where `lulc` is built.
    """

    lulc: np.ndarray
    canopy_m: np.ndarray
    wetness: np.ndarray
    texture: np.ndarray
    fractions: np.ndarray
    settlement: Settlement | None


@dataclass(frozen=True)
class _Growth:
    # of crops, (H, W), 0..1: green and ripe share, and how much residue covers the soil
    green: np.ndarray
    ripe: np.ndarray
    residue: np.ndarray


def make_cover(place: Place, terrain: Terrain, seed: int, tile_px: int) -> Cover:
    """The cover of a tile on the place's day."""
    rng = stream(seed, Purpose.COVER, place.index)
    fields = correlated_fields(
        rng,
        padded_px(tile_px),
        ((45.0, 2.2), (50.0, 2.2), (30.0, 2.4), (10.0, 1.5), (2.5, 1.6)),
    )
    patches, human, wiggle, stand, texture = fields[:, :tile_px, :tile_px]

    summer = (
        place.summer_temperature
        - LAPSE_K_PER_M * (terrain.dem_m - place.height_m)
        + 1.2 * terrain.slope_y * (1 if place.lat > 0 else -1)
        + 0.5 * patches
    )
    near_water = np.exp(-terrain.above_water_m / (3 + 0.08 * terrain.relief_m))
    wetness = place.moisture + 0.17 * patches + 0.2 * near_water
    wetness -= 0.5 * np.clip(terrain.slope - 0.35, 0, 1)

    lulc = _natural(terrain, summer, wetness, patches, stand, rng.random())
    growth = _farm(place, terrain, lulc, wetness, human, wiggle, rng)
    settlement = _settle(place, terrain, lulc, human, wiggle, rng)
    canopy_m = _canopy(place, lulc, summer, stand, texture, growth)
    fractions = _compose(
        place, lulc, summer, wetness, canopy_m, stand, texture, growth, settlement, rng
    )
    return Cover(lulc, canopy_m, np.clip(wetness, 0, 1), texture, fractions, settlement)


def _natural(
    terrain: Terrain,
    summer: np.ndarray,
    wetness: np.ndarray,
    patches: np.ndarray,
    stand: np.ndarray,
    u_marsh: float,
) -> np.ndarray:
    lulc = np.full(summer.shape, RANGELAND, np.uint8)
    grows = wetness + 0.05 * stand
    lulc[(grows > 0.50) & (summer > 9.5)] = TREES
    lulc[(grows < 0.24) | (summer < 7.5 + 0.6 * stand) | (terrain.slope > 0.95 + 0.1 * stand)] = (
        BARE
    )
    marsh_m = (0.4 + 0.10 * terrain.relief_m) * max(u_marsh - 0.55, 0)
    marsh = terrain.above_water_m < marsh_m * (1 + 0.5 * patches)
    lulc[marsh & (grows > 0.60) & (summer > 8)] = FLOODED
    lulc[summer < 5.0 - 5 * np.clip(terrain.slope - 0.9, 0, 1)] = SNOW
    lulc[terrain.water] = WATER
    return lulc


def _farm(
    place: Place,
    terrain: Terrain,
    lulc: np.ndarray,
    wetness: np.ndarray,
    human: np.ndarray,
    wiggle: np.ndarray,
    rng: np.random.Generator,
) -> _Growth:
    """Turns parcels of `lulc` into crops and pasture, in place; returns the state of the crops."""
    irrigated = place.moisture < 0.35 and rng.random() < 0.5
    parcels = pivot_parcels(rng, lulc.shape[0]) if irrigated else strip_parcels(rng, wiggle)
    kind, chance, shift = rng.random((3, parcels.num_parcels)).astype(np.float32)
    farmed = place.region.farmed
    wanted = farmed + 0.3 * human - 3.5 * terrain.slope - 0.6 * np.clip(0.3 - wetness, 0, 1)
    wanted -= 0.04 * max(13 - place.summer_temperature, 0) ** 2
    if irrigated:
        wanted += 0.35 * (farmed > 0)
    worth = parcels.mean(wanted) + 0.25 * (chance - 0.5)
    tilled = ((worth > 0.38) & (chance > 0.2))[parcels.label] & parcels.inside
    pasture = ((worth > 0.33) & (chance > 0.1))[parcels.label] & parcels.inside
    dry = (lulc == TREES) | (lulc == RANGELAND) | (lulc == BARE)
    lulc[dry & pasture] = RANGELAND
    lulc[dry & tilled] = CROPS

    year = place.day.timetuple().tm_yday / 365.25 + (0.0 if place.lat >= 0 else 0.5)
    peak = np.where(kind < 0.5, 0.38, 0.59) + 0.16 * (shift - 0.5)
    if abs(place.lat) < 23:
        peak = shift  # two or three harvests, at any time of the year
    since = (year - peak + 0.5) % 1 - 0.5
    green = np.exp(-((since / 0.11) ** 2)).astype(np.float32)
    ripe = np.exp(-(((since - 0.15) / 0.07) ** 2)).astype(np.float32)
    ripe *= 1 - green
    label = parcels.label
    return _Growth(green[label], ripe[label], 0.6 * chance[label])


def _settle(
    place: Place,
    terrain: Terrain,
    lulc: np.ndarray,
    human: np.ndarray,
    wiggle: np.ndarray,
    rng: np.random.Generator,
) -> Settlement | None:
    """Builds on `lulc`, in place. Nobody lives where the summer is cold or all land is steep."""
    u_settled, u_town = rng.random(2)
    likely = 0.10 + 0.50 * place.region.farmed if place.summer_temperature > 10 else 0.0
    if u_settled > likely:
        return None
    settlement = make_settlement(rng, terrain, human, wiggle, town=u_town < 0.4)
    lulc[settlement.built & (lulc != SNOW)] = BUILT
    return settlement


def _canopy(
    place: Place,
    lulc: np.ndarray,
    summer: np.ndarray,
    stand: np.ndarray,
    texture: np.ndarray,
    growth: _Growth,
) -> np.ndarray:
    tallest = np.clip(6 + 1.15 * (summer - 8), 5, 26) * (0.55 + 0.75 * place.moisture)
    forest = np.clip(tallest * (0.72 + 0.2 * stand + 0.1 * texture), 3, 42)
    rough = np.abs(texture)
    by_class = np.zeros((10, *lulc.shape), np.float32)
    by_class[TREES] = forest
    by_class[FLOODED] = 0.6 + 0.9 * rough
    by_class[CROPS] = 1.8 * np.maximum(growth.green, growth.ripe)
    by_class[BUILT] = 1.6 * rough
    by_class[RANGELAND] = np.clip(0.2 + 0.7 * stand * place.moisture, 0, 3)
    return np.take_along_axis(by_class, lulc[None].astype(np.intp), 0)[0]


def _compose(
    place: Place,
    lulc: np.ndarray,
    summer: np.ndarray,
    wetness: np.ndarray,
    canopy_m: np.ndarray,
    stand: np.ndarray,
    texture: np.ndarray,
    growth: _Growth,
    settlement: Settlement | None,
    rng: np.random.Generator,
) -> np.ndarray:
    u = rng.random(5)
    today = place.temperature(place.day)
    f = np.zeros((len(MATERIALS), *lulc.shape), np.float32)
    noise = 0.5 + 0.25 * np.clip(texture, -2, 2)
    m = Material

    soil = _soil(place)
    warm = np.clip((today - 2) / 8, 0, 1)
    thirst = 0.2 + 0.01 * max(place.mean_temperature - 14, 0)
    green = np.clip(1.5 * wetness - thirst + 0.12 * stand, 0, 1) * warm

    water = lulc == WATER
    turbid = np.clip(u[0] ** 2 + 0.05 * stand, 0, 1)
    f[m.TURBID] = water * turbid
    f[m.CLEAR] = water * (1 - turbid)

    trees = (lulc == TREES).astype(np.float32)
    closed = np.clip(0.62 + 0.012 * canopy_m + 0.05 * texture, 0.4, 0.97)
    shade = (0.04 + 0.005 * canopy_m) * noise * 2
    conifer = np.clip((16.5 - summer) / 5 + 0.4 * stand, 0, 1) if abs(place.lat) > 23 else 0.0
    leaf = 1.0 if place.mean_temperature > 17 else float(np.clip((today - 5) / 6, 0, 1))
    crown = trees * np.clip(closed - shade, 0, 1)
    f[m.SHADE] = trees * np.minimum(shade, closed)
    f[m.CONIFER] = crown * conifer
    f[m.BROADLEAF] = crown * (1 - conifer) * leaf
    f[m.LITTER] = crown * (1 - conifer) * (1 - leaf)
    under = trees * (1 - closed)

    flooded = (lulc == FLOODED).astype(np.float32)
    pools = np.clip(0.35 + 0.2 * stand, 0.1, 0.7)
    f[m.TURBID] += 0.5 * flooded * pools
    f[m.CLEAR] += 0.5 * flooded * pools
    f[m.WETLAND] = flooded * (1 - pools) * (0.35 + 0.65 * warm)
    f[m.LITTER] += flooded * (1 - pools) * 0.65 * (1 - warm)

    crops = (lulc == CROPS).astype(np.float32)
    f[m.CROP] = crops * growth.green
    f[m.STUBBLE] = crops * growth.ripe
    f[soil] += crops * (1 - growth.green - growth.ripe) * (1 - growth.residue)
    f[m.LITTER] += crops * (1 - growth.green - growth.ripe) * growth.residue

    rangeland = (lulc == RANGELAND).astype(np.float32)
    cover = np.clip(0.55 + 0.9 * (wetness - 0.2) + 0.1 * texture, 0.3, 1)
    f[m.GRASS] = rangeland * cover * green + under * green
    f[m.DRY_GRASS] = rangeland * cover * (1 - green) + under * (1 - green)
    f[soil] += rangeland * (1 - cover)

    bare = (lulc == BARE).astype(np.float32)
    cold = np.clip((12 - summer) / 4, 0, 1)
    grass = np.clip(0.25 * wetness + 0.08 * texture, 0, 0.3)
    f[m.ROCK] = bare * (1 - grass) * cold
    f[m.SAND if place.moisture < 0.25 else soil] += bare * (1 - grass) * (1 - cold)
    f[m.DRY_GRASS] += bare * grass

    snow = (lulc == SNOW).astype(np.float32)
    ice = np.clip(0.25 + 0.35 * stand, 0, 0.8) * warm
    f[m.ICE] = snow * ice
    f[m.SNOW] += snow * (1 - ice)

    if settlement is not None:
        _build(f, lulc == BUILT, settlement, green)
    if u[1] < 0.25 + 0.6 * place.region.farmed and place.summer_temperature > 8:
        strip = road(rng, stand) & (lulc != WATER) & (lulc != SNOW)
        f[:, strip] *= 0.3
        f[m.ASPHALT, strip] += 0.7

    # snow of the season lies on everything but water; crowns shed most of it
    lying = float(np.clip((-1.5 - today) / 4, 0, 1)) * (u[2] < 0.8)
    if lying:
        blanket = lying * np.where(trees > 0, 0.3, np.clip(0.8 + 0.15 * texture, 0, 0.95)) * ~water
        f *= 1 - blanket
        f[m.SNOW] += blanket
    return f


def _build(f: np.ndarray, built: np.ndarray, settlement: Settlement, green: np.ndarray) -> None:
    """Roofs, asphalt and gardens of the built pixels, in place."""
    m = Material
    street = (built & settlement.street).astype(np.float32)
    block = built.astype(np.float32) - street
    garden = 0.55 * settlement.garden
    bright = settlement.roof * (1 - garden)
    f[m.ASPHALT] += 0.85 * street + block * (1 - garden) * (1 - settlement.roof)
    f[m.ROOF] += block * bright
    f[m.BROADLEAF] += (0.15 * street + 0.5 * block * garden) * green
    f[m.LITTER] += (0.15 * street + 0.5 * block * garden) * (1 - green)
    f[m.GRASS] += 0.5 * block * garden * green
    f[m.DRY_GRASS] += 0.5 * block * garden * (1 - green)


def _soil(place: Place) -> Material:
    return Material.RED_SOIL if abs(place.lat) < 35 and place.moisture < 0.7 else Material.DARK_SOIL
