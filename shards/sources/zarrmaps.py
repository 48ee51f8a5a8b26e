"""From the variables of a zarr store, as TerraMesh and SSL4EO-S12 name them, to the parts of a sample.

bands (C, H, W)  band (C,)     pixels and the names of their bands
x (W,)  y (H,)  crs            pixel centres in the units of an EPSG code
center_lon  center_lat         degrees
time                           of acquisition; datetime64 or integers, see `as_times`
file_id                        the product the map was cut from
cloud_mask (H, W)              0 land 1 water 2 snow 3 thin cloud 4 thick cloud 5 shadow 6 no data;
                               of optical stores, and `CloudMask` for those who name it
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from configs.registry import CLOUD_MASK, modality
from configs.schema.modality import Modality
from shards.errors import SampleError, SourceError
from shards.sample import Part, Sample
from shards.sources.convert import invalid_pixels, to_row
from shards.sources.grid import Grid
from shards.sources.maps import DERIVED, Map, sample_of

OPTICAL = ("S2L1C", "S2L2A", "S2RGB")

_CLOUD_CLASSES = (3, 4)
_CLOUD_NODATA = 6
# Heights come as floats in some versions; a metre is finer than their error.
_ROUNDED = ("DEM",)
_ALIASES = {"S2RGB": {"RED": "R", "GREEN": "G", "BLUE": "B", "B04": "R", "B03": "G", "B02": "B"}}
_UNITS = {
    **{"nanosecond": "ns", "microsecond": "us", "millisecond": "ms", "second": "s"},
    **{"minute": "m", "hour": "h", "day": "D"},
}
_FIRST_TIME = np.datetime64("1970-01-02", "ns")


class ZarrMap(NamedTuple):
    """One modality of one sample, and the product it was cut from."""

    map: Map
    product: str | None


def check_wish(wanted: Collection[str], maps: Collection[str], title: str) -> None:
    """Raise SourceError for modalities that a collection of `maps` cannot have; none means all."""
    known = {*maps, *DERIVED, CLOUD_MASK}
    if wanted and not (set(wanted) & set(maps) and set(wanted) <= known):
        raise SourceError(
            f"source.modalities={list(wanted)}: {title} has {', '.join(maps)}, and "
            f"{' and '.join(DERIVED)} come with them, {CLOUD_MASK} with optical ones"
        )
    if CLOUD_MASK in wanted and not set(wanted) & set(OPTICAL):
        raise SourceError(
            f"source.modalities={list(wanted)}: {CLOUD_MASK} comes with optical maps; name one of "
            f"{', '.join(OPTICAL)} beside it"
        )


def come_along(wanted: Collection[str]) -> set[str]:
    """What of `wanted` comes with maps and has no stores of its own.

    Without a wish, place and date. The cloud mask has to be named: data sets by default stay what
    they are.
    """
    return set(wanted) & {*DERIVED, CLOUD_MASK} if wanted else set(DERIVED)


def read_map(variables: Mapping[str, np.ndarray], row: Modality, where: str) -> ZarrMap:
    """A map from its variables; all but `bands` may be missing.

    Raises SampleError, which begins with `where`, for bands other than the registry's, for values
    its type cannot hold, and for pixels without two axes.
    """
    pixels = variables["bands"]
    if pixels.ndim != 3:
        raise SampleError(f"{where}: {row.name} is (bands, height, width), not {pixels.shape}")
    order = _band_order(variables.get("band"), pixels.shape[0], row, where)
    lon, lat = (_number(variables.get(name)) for name in ("center_lon", "center_lat"))
    found = Map(
        array=_to_row(pixels if order is None else pixels[order], row, where),
        grid=_grid(variables, pixels.shape[1], pixels.shape[2]),
        day=_day(variables.get("time")),
        lonlat=None if lon is None or lat is None else (lon, lat),
    )
    return ZarrMap(found, _text(variables.get("file_id")))


def as_times(values: np.ndarray, attributes: Mapping[str, Any], where: str) -> np.ndarray:
    """Times as datetime64[ns], NaT where unknown: 0, negative, or no number.

    Integers are nanoseconds since 1970, or what their `units` attribute says by the CF conventions:
    `seconds since 2020-04-19 09:40:31`. Raises SampleError for units that are not understood.
    """
    if values.dtype.kind == "M":
        times = values.astype("datetime64[ns]")
    else:
        words = str(attributes.get("units", "nanoseconds since 1970-01-01"))
        try:
            unit, begin = _parse_units(words)
            known = np.isfinite(values)
        except (ValueError, TypeError) as error:
            raise SampleError(
                f"{where}: times of type {values.dtype} in {words!r} are not understood"
            ) from error
        steps = np.where(known, values, 0).astype(np.int64).astype(f"timedelta64[{unit}]")
        times = np.where(known, begin + steps.astype("timedelta64[ns]"), np.datetime64("NaT"))
    return np.where(times >= _FIRST_TIME, times, np.datetime64("NaT"))


def _parse_units(words: str) -> tuple[str, np.datetime64]:
    match = re.fullmatch(r"(\w+?)s? since (.+)", words.strip())
    if match is None or match[1].lower() not in _UNITS:
        raise ValueError(f"not a unit of time since a time: {words}")
    return _UNITS[match[1].lower()], np.datetime64(match[2], "ns")


@dataclass
class Clouds:
    """What the masks of a sample's optical stores say, store by store.

    `share` is that of the first mask in which any pixel has a class.
    """

    share: float | None = None
    _first: tuple[np.ndarray, ZarrMap, str] | None = None

    def add(self, mask: np.ndarray, beside: ZarrMap, where: str) -> None:
        """Take the mask (H, W) or (1, H, W) that lies in the store of the map `beside`."""
        self.share = cloud_share(mask)
        self._first = self._first or (mask, beside, where)

    def as_map(self) -> ZarrMap | None:
        """The first mask as a map, of the day and product of the map beside it; None without any.

        Raises SampleError when it is no map of the registry.
        """
        if self._first is None:
            return None
        mask, beside, where = self._first
        pixels = mask if mask.ndim == 3 else mask[None]
        shape = (1, *beside.map.array.shape[1:])
        if pixels.shape != shape:
            raise SampleError(
                f"{where}: the cloud mask is {pixels.shape}, its map asks for {shape}"
            )
        array = _to_row(pixels, modality(CLOUD_MASK), where)
        return beside._replace(map=beside.map._replace(array=array))


def cloud_share(mask: np.ndarray) -> float | None:
    """The share of thin and thick cloud among the pixels that have a class; None without any."""
    num = np.count_nonzero(mask != _CLOUD_NODATA)
    return float(np.isin(mask, _CLOUD_CLASSES).sum() / num) if num else None


def make_sample(
    key: str,
    source: str,
    maps: Mapping[str, ZarrMap],
    faults: dict[str, str],
    derived: Collection[str],
    clouds: Clouds,
) -> Sample:
    """The sample these maps make, with what is in `derived` of coordinates, date and cloud mask.

    The date is that of the first optical map that has one. Raises SampleError when the maps do not
    show the same place, and when there is none.
    """
    if CLOUD_MASK in derived:
        try:
            mask = clouds.as_map()
            maps = {**maps, CLOUD_MASK: mask} if mask else maps
        except SampleError as error:
            faults = {**faults, CLOUD_MASK: str(error)}
    plain = {name: found.map for name, found in maps.items()}
    sample = sample_of(key, plain, faults, source, {*derived} - {"date"})
    day = next((plain[name].day for name in OPTICAL if name in plain and plain[name].day), None)
    parts: dict[str, Part] = {"date": day} if day and "date" in derived else {}
    products = {name: found.product for name, found in maps.items() if found.product}
    meta = dataclasses.replace(sample.meta, cloud=clouds.share, products=products)
    return dataclasses.replace(sample, parts=sample.parts | parts, meta=meta)


def _band_order(
    names: np.ndarray | None, num_bands: int, row: Modality, where: str
) -> list[int] | None:
    """Where the registry's bands lie in the file; None when they lie in their order.

    A single band, and bands that are only numbered, are taken as they come.
    """
    found = None
    if names is not None and names.dtype.kind == "U" and row.num_bands > 1:
        aliases = _ALIASES.get(row.name, {})
        found = [_band_name(name, aliases) for name in names.reshape(-1).tolist()]
    if num_bands != row.num_bands or (found and sorted(found) != sorted(row.bands)):
        has = f"{num_bands} bands" + (f" ({', '.join(found)})" if found else "")
        raise SampleError(
            f"{where}: {row.name} needs {row.num_bands} bands ({', '.join(row.bands)}), "
            f"this file has {has}; leave the modality out with source.modalities=[...]"
        )
    if not found or found == list(row.bands):
        return None
    return [found.index(band) for band in row.bands]


def _band_name(name: str, aliases: Mapping[str, str]) -> str:
    # Sentinel-2's B2 is its B02.
    text = re.sub(r"^B(\d)$", r"B0\1", name.upper())
    return aliases.get(text, text)


def _to_row(pixels: np.ndarray, row: Modality, where: str) -> np.ndarray:
    """The same values in the registry's type. Raises SampleError where they do not fit."""
    if row.name in _ROUNDED and pixels.dtype.kind == "f":
        pixels = np.rint(pixels)
    return to_row(pixels, invalid_pixels(pixels, None), row, where)


def _grid(variables: Mapping[str, np.ndarray], height: int, width: int) -> Grid:
    """Where the map lies; without place where `crs`, `x` or `y` do not say."""
    epsg = _number(variables.get("crs"))
    across, down = (_steps(variables.get(n), num) for n, num in (("x", width), ("y", height)))
    if not epsg or not across or not down:
        return Grid(None, None, height, width)
    (left, step_x), (top, step_y) = across, down
    return Grid(f"EPSG:{epsg:.0f}", (step_x, 0.0, left, 0.0, step_y, top), height, width)


def _steps(centres: np.ndarray | None, num: int) -> tuple[float, float] | None:
    """The outer edge of the first pixel and the step from one to the next."""
    if centres is None or centres.shape != (num,) or num < 2:
        return None
    step = float(centres[-1] - centres[0]) / (num - 1)
    edge = float(centres[0]) - step / 2
    return (edge, step) if math.isfinite(edge) and step else None


def _day(time: np.ndarray | None) -> str | None:
    return None if time is None or np.isnat(time) else str(time.astype("datetime64[D]"))


def _number(value: np.ndarray | None) -> float | None:
    number = math.nan if value is None or value.dtype.kind not in "iuf" else float(value)
    return number if math.isfinite(number) else None


def _text(value: np.ndarray | None) -> str | None:
    return (str(value) or None) if value is not None else None
