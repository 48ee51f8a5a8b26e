"""Where and when a sample is: region, coordinates, height, climate, dates, sun.

- Places are drawn from boxes on the continents; a box carries its moisture, its range of heights,
  its ruggedness and how much of its good land is farmed.
- Sea-level temperature falls with latitude, 6.5 K are lost per 1,000 m, the yearly swing grows with
  latitude. The tree line is the isotherm of 9.5 degC in the warmest month, the snow line that of 5.
"""

import datetime as dt
import functools
import math
from dataclasses import dataclass

import numpy as np

from shards.sources.earth.noise import Purpose, stream

BLOCK_SIZE = 64
LAPSE_K_PER_M = 0.0065
_FIRST_DAY = dt.date(2017, 1, 1)
_NUM_DAYS = (dt.date(2024, 12, 31) - _FIRST_DAY).days + 1


@dataclass(frozen=True)
class Region:
    """A box of longitudes and latitudes with one character; shares in 0..1, heights in metres."""

    name: str
    lon: tuple[float, float]
    lat: tuple[float, float]
    moisture: float
    height_m: tuple[float, float]
    rugged: float
    farmed: float
    weight: float = 1.0


REGIONS = (
    Region("Scandinavia", (9, 28), (57, 69), 0.70, (20, 1900), 0.9, 0.20),
    Region("western Europe", (-3, 12), (44, 53), 0.64, (0, 700), 0.6, 0.75, 1.6),
    Region("the Alps", (6, 15), (45, 47.5), 0.66, (300, 3700), 1.2, 0.30, 1.8),
    Region("eastern Europe", (17, 38), (46, 56), 0.55, (40, 400), 0.35, 0.80),
    Region("Iberia", (-7, -1), (37, 42), 0.40, (10, 1700), 0.8, 0.55),
    Region("Anatolia", (29, 42), (37, 41), 0.36, (100, 2800), 0.9, 0.45),
    Region("western Siberia", (62, 85), (54, 66), 0.62, (30, 200), 0.15, 0.15),
    Region("eastern Siberia", (95, 130), (55, 69), 0.52, (100, 1800), 0.8, 0.0),
    Region("the Caucasus", (41, 47), (41.5, 44), 0.60, (200, 3900), 1.2, 0.35),
    Region("Central Asia", (58, 76), (38, 48), 0.17, (60, 2500), 0.6, 0.20),
    Region("the Himalaya", (76, 92), (27.5, 32), 0.55, (700, 4000), 1.2, 0.30, 1.3),
    Region("northern India", (74, 86), (23, 28), 0.48, (30, 350), 0.12, 0.95),
    Region("south-eastern China", (106, 118), (24, 33), 0.74, (10, 1300), 0.8, 0.65),
    Region("mainland Southeast Asia", (98, 106), (13, 20), 0.74, (5, 1400), 0.7, 0.55),
    Region("Borneo", (110, 117), (-2, 4), 0.92, (5, 1300), 0.7, 0.20),
    Region("the Australian outback", (122, 142), (-30, -20), 0.14, (100, 700), 0.3, 0.0),
    Region("south-eastern Australia", (143, 151), (-37, -30), 0.46, (50, 1500), 0.6, 0.50),
    Region("the Southern Alps", (168, 172), (-45, -42), 0.76, (50, 3000), 1.2, 0.30),
    Region("the Sahara", (-5, 30), (18, 30), 0.05, (100, 1500), 0.5, 0.05),
    Region("the Sahel", (-10, 30), (10, 15), 0.30, (150, 600), 0.2, 0.50),
    Region("the Congo Basin", (16, 28), (-4, 4), 0.92, (300, 800), 0.25, 0.20),
    Region("East Africa", (30, 39), (-10, 4), 0.52, (300, 3200), 0.7, 0.45),
    Region("southern Africa", (18, 30), (-31, -20), 0.28, (300, 1800), 0.5, 0.30),
    Region("the Amazon", (-70, -52), (-10, 0), 0.94, (20, 300), 0.2, 0.15),
    Region("the Andes", (-72, -66), (-32, -12), 0.36, (600, 4100), 1.1, 0.15, 1.3),
    Region("Patagonia", (-73, -67), (-52, -40), 0.42, (20, 2000), 1.0, 0.05),
    Region("the Pampas", (-65, -57), (-38, -28), 0.54, (10, 200), 0.1, 0.85),
    Region("the Brazilian highlands", (-52, -42), (-22, -10), 0.58, (200, 1300), 0.5, 0.50),
    Region("the Great Plains", (-103, -94), (33, 48), 0.42, (200, 1500), 0.2, 0.80),
    Region("the Rocky Mountains", (-118, -106), (38, 55), 0.48, (700, 3600), 1.1, 0.15, 1.3),
    Region("the eastern United States", (-90, -77), (32, 42), 0.70, (5, 900), 0.5, 0.50),
    Region("the Canadian Shield", (-120, -75), (50, 60), 0.74, (50, 600), 0.3, 0.02),
    Region("Alaska", (-158, -142), (61, 68), 0.62, (30, 2300), 1.0, 0.0),
    Region("central Mexico", (-105, -98), (18, 26), 0.38, (50, 3300), 0.8, 0.40),
    Region("Japan", (138, 141), (36, 41), 0.74, (0, 2300), 1.0, 0.45),
)
_WEIGHTS = np.cumsum([r.weight for r in REGIONS])


@dataclass(frozen=True)
class Place:
    """One sample's place and time; temperatures in degC refer to `height_m`, the valley floor."""

    index: int
    region: Region
    lon: float
    lat: float
    height_m: float
    moisture: float
    is_coast: bool
    day: dt.date
    s1_day: dt.date
    rtc_day: dt.date
    landsat_day: dt.date

    @property
    def mean_temperature(self) -> float:
        return 27.5 - 0.0072 * self.lat**2 - LAPSE_K_PER_M * self.height_m

    @property
    def yearly_swing_k(self) -> float:
        return 0.25 * abs(self.lat)

    @property
    def summer_temperature(self) -> float:
        return self.mean_temperature + self.yearly_swing_k

    def temperature(self, day: dt.date) -> float:
        """The seasonal temperature of a day."""
        return self.mean_temperature + self.yearly_swing_k * self.summerness(day)

    def summerness(self, day: dt.date) -> float:
        """1 at midsummer of the place's hemisphere, -1 at midwinter."""
        phase = math.cos(2 * math.pi * (day.timetuple().tm_yday - 200) / 365.25)
        return phase if self.lat >= 0 else -phase


def position(seed: int, index: int) -> tuple[float, float]:
    """Longitude and latitude of a sample, without the rest of it."""
    place = _region_and_position(seed, index)
    return place[1], place[2]


def place_of(seed: int, index: int) -> Place:
    """All that is true of the whole tile."""
    region, lon, lat, rest = _region_and_position(seed, index)
    u_height, u_moisture, u_coast, u_day, u_day2, u_s1, u_rtc, u_landsat = rest
    low, high = region.height_m
    is_coast = low <= 20 and u_coast < 0.22
    height_m = 0.0 if is_coast else low + (high - low) * u_height**1.2
    # of two days the sunnier one: archives hold more summer images than winter ones
    days = [_FIRST_DAY + dt.timedelta(int(u * _NUM_DAYS)) for u in (u_day, u_day2)]
    day = max(days, key=lambda d: sun_position(lat, d)[0])
    return Place(
        index=index,
        region=region,
        lon=lon,
        lat=lat,
        height_m=height_m,
        moisture=float(np.clip(region.moisture + 0.3 * (u_moisture - 0.5), 0.02, 1)),
        is_coast=is_coast,
        day=day,
        s1_day=day + dt.timedelta(int(u_s1 * 7) - 3),
        rtc_day=day + dt.timedelta(int(u_rtc * 7) - 3),
        landsat_day=day + dt.timedelta(int(u_landsat * 13) - 6),
    )


def sun_position(lat: float, day: dt.date) -> tuple[float, float]:
    """(cosine of the sun's zenith angle, azimuth in radians from north) at 10:30 solar time."""
    declination = math.radians(23.44) * math.sin(
        2 * math.pi * (day.timetuple().tm_yday - 81) / 365.25
    )
    phi, hour = math.radians(lat), math.radians(-22.5)
    cos_zenith = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(
        declination
    ) * math.cos(hour)
    east = -math.cos(declination) * math.sin(hour)
    north = math.sin(declination) * math.cos(phi) - math.cos(declination) * math.sin(
        phi
    ) * math.cos(hour)
    return max(cos_zenith, 0.15), math.atan2(east, north)


def utm(lon: float, lat: float) -> tuple[int, float, float]:
    """(EPSG code, easting, northing) of a WGS 84 position in its UTM zone, in metres.

    Series of Snyder, Map Projections: A Working Manual (USGS 1987), equations 8-9 to 8-15; good to
    centimetres within a zone.
    """
    a, f, k0 = 6378137.0, 1 / 298.257223563, 0.9996
    e2 = f * (2 - f)
    ep2 = e2 / (1 - e2)
    zone = min(int((lon + 180) // 6) + 1, 60)
    phi = math.radians(lat)
    n = a / math.sqrt(1 - e2 * math.sin(phi) ** 2)
    t = math.tan(phi) ** 2
    c = ep2 * math.cos(phi) ** 2
    x = math.radians(lon - (zone * 6 - 183)) * math.cos(phi)
    m = a * (
        (1 - e2 / 4 - 3 * e2**2 / 64 - 5 * e2**3 / 256) * phi
        - (3 * e2 / 8 + 3 * e2**2 / 32 + 45 * e2**3 / 1024) * math.sin(2 * phi)
        + (15 * e2**2 / 256 + 45 * e2**3 / 1024) * math.sin(4 * phi)
        - (35 * e2**3 / 3072) * math.sin(6 * phi)
    )
    easting = 500_000 + k0 * n * (
        x + (1 - t + c) * x**3 / 6 + (5 - 18 * t + t**2 + 72 * c - 58 * ep2) * x**5 / 120
    )
    northing = k0 * (
        m
        + n
        * math.tan(phi)
        * (
            x**2 / 2
            + (5 - t + 9 * c + 4 * c**2) * x**4 / 24
            + (61 - 58 * t + t**2 + 600 * c - 330 * ep2) * x**6 / 720
        )
    )
    if lat < 0:
        return 32700 + zone, easting, northing + 10_000_000
    return 32600 + zone, easting, northing


@functools.lru_cache(maxsize=64)
def _block_uniforms(seed: int, block: int) -> np.ndarray:
    # a block at a time, so that listing millions of positions costs microseconds each
    return stream(seed, Purpose.PLACE, block).random((BLOCK_SIZE, 11))


def _region_and_position(seed: int, index: int) -> tuple[Region, float, float, list[float]]:
    block, row = divmod(index, BLOCK_SIZE)
    u_region, u_lon, u_lat, *rest = _block_uniforms(seed, block)[row].tolist()
    region = REGIONS[int(np.searchsorted(_WEIGHTS, u_region * _WEIGHTS[-1], side="right"))]
    lon = region.lon[0] + u_lon * (region.lon[1] - region.lon[0])
    lat = region.lat[0] + u_lat * (region.lat[1] - region.lat[0])
    return region, lon, lat, rest
