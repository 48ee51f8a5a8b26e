"""Which band of a data set is which band of a backbone: by name, unless the names say it is another.

Numbers count differently from sensor to sensor: `05 - NIR` of Landsat is no B05 of Sentinel-2, which is red
edge. Where both names have a known meaning, it must be the same.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from configs import ConfigError
from shards.sources.rasters import band_key

_NUMBERED = re.compile(r"(?:B?0*)(\d+A?)(?: - (.*))?", re.IGNORECASE)
# What the words of a name mean; the first that is found of each line.
_WORDS = (
    ("swir|short.?wave", "swir"), ("nir|near.?infrared", "nir"), ("red.?edge", "red edge"),
    ("red", "red"), ("green", "green"), ("blue", "blue"), ("coastal|aerosol", "coastal"),
    ("cirrus", "cirrus"), ("thermal|tirs?", "thermal"), ("pan(chromatic)?", "pan"),
    ("water", "water"),
)  # fmt: skip
# Meanings by number. 8A is called by both names, and so is the cirrus band of Sentinel-2.
_SENTINEL2 = {
    "1": "coastal", "2": "blue", "3": "green", "4": "red", "5": "red edge", "6": "red edge",
    "7": "red edge", "8": "nir", "8A": "nir|red edge", "9": "water", "10": "cirrus|swir",
    "11": "swir", "12": "swir",
}  # fmt: skip
# Landsat 8 and 9.
_LANDSAT = {
    "1": "coastal", "2": "blue", "3": "green", "4": "red", "5": "nir", "6": "swir", "7": "swir",
    "8": "pan", "9": "cirrus", "10": "thermal", "11": "thermal",
}  # fmt: skip
_COLOURS = {"r": "red", "g": "green", "b": "blue"}
_BY_MODALITY = {"S2RGB": _COLOURS, "S2": _SENTINEL2, "Landsat": _LANDSAT}
# Words that alone name a band.
_ALIASES = ("red", "green", "blue", "nir")


class BandMap(NamedTuple):
    """Where each band of a backbone comes from: the data's channel, or -1 where it has none.

    `denied` are bands of the data whose number a band of the backbone has, and whose meaning it has not.
    """

    source: tuple[int, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    denied: tuple[str, ...] = ()


def band_place(names: Sequence[str], band: str) -> int:
    """Where a band is among others, by any of its names. Raises ConfigError where it is not."""
    keys = [band_key(name) for name in names]
    if band_key(band) not in keys:
        raise ConfigError(f"there is no band {band}; there are {', '.join(names)}")
    return keys.index(band_key(band))


def meanings(name: str, modality: str) -> set[str]:
    """What a band of a modality measures, as far as its name says or the sensor's numbers do; else empty."""
    match = _NUMBERED.fullmatch(name.strip())
    words = (match[2] or "") if match else name
    found = {
        meaning
        for pattern, meaning in _WORDS
        if re.search(rf"(?<![a-z])({pattern})(?![a-z])", words.lower().replace("_", " "))
    }
    if "red edge" in found:
        found -= {"red"}
    if found:
        return found
    table = next((t for start, t in _BY_MODALITY.items() if modality.startswith(start)), {})
    return set(table[band_key(name)].split("|")) if band_key(name) in table else set()


def map_bands(
    have: Sequence[str],
    want: Sequence[str],
    told: Mapping[str, str] | None = None,
    modalities: tuple[str, str] = ("", ""),
) -> BandMap:
    """By name, whatever the order; what is `told` {wanted: had} wins.

    `modalities` are those of the data and of the backbone: their names tell the sensor. A colour or `NIR`
    alone is the band of that meaning of Sentinel-2 or Landsat. Raises ConfigError where no band is common, a
    name is there twice, or what is told is not there.
    """
    places: dict[str, int] = {}
    for i, name in enumerate(have):
        if band_key(name) in places:
            raise ConfigError(f"bands {have[places[band_key(name)]]} and {name} have the same name")
        places[band_key(name)] = i
    chosen = {band_place(want, w): band_place(have, h) for w, h in (told or {}).items()}
    source, denied = [], []
    for place, name in enumerate(want):
        means = meanings(name, modalities[1])
        if place in chosen:
            source.append(chosen[place])
            continue
        found = places.get(band_key(name), -1)
        if found < 0:
            alias = [w for w in _ALIASES if means == {w} and w in places]
            found = places[alias[0]] if alias else -1
        if found in chosen.values():
            found = -1
        elif found >= 0:
            other = meanings(have[found], modalities[0])
            if means and other and not means & other:
                denied.append(f"{have[found]} is no {name} ({' or '.join(sorted(means))})")
                found = -1
        source.append(found)
    if max(source) < 0:
        raise ConfigError(
            f"no band in common: the data has {', '.join(have)}; the backbone takes {', '.join(want)}: "
            "name the data's bands as the backbone does, write band_map={DATA: {THEIRS: OURS}}, or map the "
            "modality to another one"
        )
    return BandMap(
        tuple(source),
        tuple(name for name, i in zip(want, source, strict=True) if i < 0),
        tuple(name for i, name in enumerate(have) if i not in source),
        tuple(denied),
    )
