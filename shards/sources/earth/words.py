"""OSM tags and captions written from the land cover, the relief, the season and the region."""

import numpy as np

from shards.sources.earth.cover import (
    BARE,
    BUILT,
    CROPS,
    FLOODED,
    RANGELAND,
    SNOW,
    TREES,
    WATER,
    Cover,
)
from shards.sources.earth.noise import Purpose, stream
from shards.sources.earth.place import Place
from shards.sources.earth.terrain import Terrain

CLASS_WORDS = {
    WATER: "open water",
    TREES: "forest",
    FLOODED: "wetland",
    CROPS: "cropland",
    BUILT: "buildings and streets",
    BARE: "bare ground",
    SNOW: "snow and ice",
    RANGELAND: "grassland",
}
_LEAST_SHARE = 0.01


def shares_of(lulc: np.ndarray) -> list[tuple[int, float]]:
    """(class, share of the tile), largest first, above one per cent; nodata is left out."""
    count = np.bincount(lulc.ravel(), minlength=10)
    shares = [(value, count[value] / lulc.size) for value in CLASS_WORDS]
    return sorted((s for s in shares if s[1] >= _LEAST_SHARE), key=lambda s: -s[1])


def osm_tags(place: Place, terrain: Terrain, cover: Cover) -> str:
    """Tags as `key=value`, separated by spaces, in the order of their area."""
    tags: list[str] = []
    farmed = place.region.farmed >= 0.5
    for value, share in shares_of(cover.lulc):
        match value:
            case 1 if place.is_coast:
                tags += ["natural=water", "natural=coastline"]
            case 1:
                tags += ["natural=water"] if share > 0.1 or not terrain.has_river else []
                tags += ["waterway=river"] if terrain.has_river else []
            case 2:
                tags.append("landuse=forest" if farmed else "natural=wood")
            case 3:
                tags.append("natural=wetland")
            case 4:
                tags.append("landuse=farmland")
            case 5:
                tags += ["landuse=residential", "building=yes", "highway=residential"]
            case 6:
                tags.append("natural=sand" if place.moisture < 0.25 else "natural=bare_rock")
            case 7:
                tags.append("natural=glacier")
            case _:
                tags.append("landuse=meadow" if farmed else "natural=grassland")
    return " ".join(tags)


def caption(place: Place, terrain: Terrain, cover: Cover, seed: int) -> str:
    """One English sentence; it names the largest class by its word in CLASS_WORDS."""
    words = [CLASS_WORDS[value] for value, _ in shares_of(cover.lulc)[:3]]
    relief = _relief_word(place, terrain)
    main, rest = words[0], words[1:]
    others = " and ".join(rest)
    when, where = _season(place), place.region.name
    article = "An" if relief[0] in "aeiou" else "A"
    match int(stream(seed, Purpose.WORDS, place.index).integers(3)):
        case 0:
            tail = f" with {others}" if rest else ""
            return f"{article} {relief} landscape of {main}{tail}, {when}, in {where}."
        case 1:
            tail = f", with some {others}," if rest else ""
            return f"Mostly {main}{tail} on {relief} terrain in {where}, {when}."
        case _:
            tail = f" beside {others}" if rest else ""
            return f"In {where}, {when}: {main}{tail} in {article.lower()} {relief} setting."


def _relief_word(place: Place, terrain: Terrain) -> str:
    if place.is_coast:
        return "coastal"
    steep = float(terrain.slope.mean())
    high = "high " if place.height_m > 2000 else ""
    if steep < 0.02:
        return f"{high}flat"
    if steep < 0.07:
        return f"{high}rolling"
    return f"{high}hilly" if steep < 0.2 else f"{high}mountainous"


def _season(place: Place) -> str:
    summer = place.summerness(place.day)
    if abs(place.lat) < 20:
        return "in the wet season" if summer > 0 else "in the dry season"
    if summer > 0.707:
        return "in summer"
    if summer < -0.707:
        return "in winter"
    month = place.day.month if place.lat >= 0 else (place.day.month + 5) % 12 + 1
    return "in spring" if month < 7 else "in autumn"
