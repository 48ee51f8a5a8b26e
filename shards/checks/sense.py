"""Does one sample make sense: one grid, one place, days that fit?"""

import datetime
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from configs.schema.modality import Modality
from shards.checks.report import Finding, Remarks
from shards.sample import SampleMeta
from shards.sources.grid import GRID_M, apply, to_degrees

LANDSAT_1 = datetime.date(1972, 7, 23)
"""The day the first satellite was launched whose images this software could meet."""

_COORDINATES_DEG = 1e-4
_SAME_PIXEL = 0.05
_SAME_SIDE = 1e-6
_M_PER_DEG = 111_320.0
# Heights do not have the day of a satellite's pass.
_STILL = ("DEM", "slope", "CHM", "CHMstd")


@dataclass(frozen=True)
class Seen:
    """What a sample's parts say: ground covered by each map (height, width in m), place and day."""

    ground: Mapping[str, tuple[float, float]]
    coordinates: tuple[float, float] | None
    date: str | None


def is_acquired(row: Modality) -> bool:
    """Whether a modality is an image of one day."""
    return row.kind == "image" and row.name not in _STILL


def day_of(text: str | None) -> datetime.date | None:
    """A day from ISO 8601; None when it is none."""
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError:
        return None


class _Centre(NamedTuple):
    """A sample by its meta data, the middle of its maps in CRS units, and half the side of its tile."""

    key: str
    lon: float
    lat: float
    x: float
    y: float
    half_m: float


class Sense:
    """Checks the samples of one shard; `finish` after the last.

    `today` is the day of the check, `max_days` what acquisitions of one sample may lie apart.
    """

    def __init__(
        self,
        rows: Mapping[str, Modality],
        today: datetime.date,
        max_days: int,
        remarks: Remarks,
    ) -> None:
        self._acquired = {name for name, row in rows.items() if is_acquired(row)}
        self._today, self._max_days, self._remarks = today, max_days, remarks
        self._centres: dict[str, list[_Centre]] = {}

    def check(self, key: str, meta: SampleMeta, seen: Seen) -> None:
        """One sample by its meta data and its parts."""
        self._check_ground(key, seen)
        self._check_place(key, meta, seen)
        self._check_days(key, meta, seen)

    def finish(self) -> None:
        """Compare the centres of transforms with the coordinates of their samples."""
        for crs, centres in self._centres.items():
            parsed = _parse_crs(crs)
            found = parsed and to_degrees(parsed, [(c.x, c.y) for c in centres])
            if not found:
                what = f"a CRS that is not understood ({crs})"
                self._warn("meta", what, _BUILD, centres[0].key)
                continue
            for centre, (lon, lat) in zip(centres, found, strict=True):
                apart_m = _distance_m(centre.lon, centre.lat, lon, lat)
                if not apart_m <= centre.half_m:
                    what = "lon and lat more than half a tile from the centre of the transform"
                    example = f"{centre.key} ({apart_m:.0f} m)"
                    self._warn("meta", what, _BUILD, example, apart_m)

    def _check_ground(self, key: str, seen: Seen) -> None:
        if len(set(seen.ground.values())) < 2:
            return
        (first, sides), *others = seen.ground.items()
        for name, ground in others:
            if all(
                math.isclose(a, b, rel_tol=_SAME_SIDE) for a, b in zip(sides, ground, strict=True)
            ):
                continue
            sizes = (f"{height:g} x {width:g} m" for height, width in (sides, ground))
            remark = Finding(
                "error",
                "semantics",
                f"{first}, {name}",
                "maps that cover different ground",
                "their pixels times gsd_m must agree: correct the source, or gsd_m in "
                "configs/modalities, and build again",
            )
            self._remarks.add(remark, f"{key} ({' and '.join(sizes)})")

    def _check_place(self, key: str, meta: SampleMeta, seen: Seen) -> None:
        place = None if meta.lon is None or meta.lat is None else (meta.lon, meta.lat)
        if seen.coordinates and place:
            apart = max(abs(a - b) for a, b in zip(seen.coordinates, place, strict=True))
            if not apart <= _COORDINATES_DEG:
                what = "coordinates that differ from lon and lat of the meta data"
                self._warn("coordinates", what, _BUILD, f"{key} ({apart:.4g} degrees)", apart)
        if not (meta.crs and meta.transform and seen.ground):
            return
        pixel_m = _pixel_m(meta.crs, meta.transform)
        if pixel_m is not None and not abs(pixel_m / GRID_M - 1) < _SAME_PIXEL:
            what = f"a transform whose pixels are not those of the {GRID_M:g} m grid"
            todo = "gsd_m of the maps' rows is not what their files say: correct it and build again"
            self._warn("meta", what, todo, f"{key} ({pixel_m:.4g} m)")
        elif place:
            height, width = next(iter(seen.ground.values()))
            x, y = apply(meta.transform, width / 2 / GRID_M, height / 2 / GRID_M)
            centre = _Centre(key, *place, x, y, min(height, width) / 2)
            self._centres.setdefault(meta.crs, []).append(centre)

    def _check_days(self, key: str, meta: SampleMeta, seen: Seen) -> None:
        days = {name: day_of(text) for name, text in meta.times.items()}
        for name, day in {**days, "date": day_of(seen.date)}.items():
            text = seen.date if name == "date" else meta.times[name]
            if text is not None and (day is None or not LANDSAT_1 <= day <= self._today):
                what = f"a day before {LANDSAT_1}, in the future, or none at all"
                todo = "correct the times in the source and build again, or leave the date out"
                self._warn(name, what, todo, f"{key} ({text!r})")
        if seen.date is not None and meta.times and seen.date not in meta.times.values():
            what = "a date that is no modality's day of acquisition"
            self._warn("date", what, _BUILD, f"{key} ({seen.date})")
        passes = {name: day for name, day in days.items() if day and name in self._acquired}
        if len(passes) > 1:
            first, last = (f(passes, key=lambda n: passes[n]) for f in (min, max))
            apart = (passes[last] - passes[first]).days
            if apart > self._max_days:
                self._warn(
                    "times",
                    f"modalities acquired more than {self._max_days} days apart",
                    "train on such pairs only if nothing changes in that time; --max-days sets the "
                    "bound",
                    f"{key} ({first} and {last}: {apart} days)",
                    apart,
                )

    def _warn(self, where: str, what: str, todo: str, example: str, size: float = 0.0) -> None:
        self._remarks.add(Finding("warning", "semantics", where, what, todo), example, size)


_BUILD = "correct the source's meta data and build again"


def _pixel_m(crs: str, transform: tuple[float, ...]) -> float | None:
    """The side of a pixel across the rows, metres; None for a CRS that is not understood."""
    unit = _unit_m(crs)
    return None if unit is None else math.hypot(transform[1], transform[4]) * unit


@functools.lru_cache(maxsize=256)
def _unit_m(crs: str) -> float | None:
    """What one unit of a CRS is long, metres."""
    from rasterio.errors import CRSError

    parsed = _parse_crs(crs)
    if parsed is None:
        return None
    if parsed.is_geographic:
        return _M_PER_DEG
    try:
        return float(parsed.linear_units_factor[1])
    except CRSError:
        return None


@functools.lru_cache(maxsize=256)
def _parse_crs(text: str) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError:
        return None


def _distance_m(lon: float, lat: float, other_lon: float, other_lat: float) -> float:
    """Metres between two places that are near each other; on a sphere, which is near enough."""
    east = (other_lon - lon + 180) % 360 - 180
    north = other_lat - lat
    return math.hypot(east * math.cos(math.radians(lat)), north) * _M_PER_DEG
