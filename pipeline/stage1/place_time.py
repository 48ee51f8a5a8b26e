"""Coordinates and dates as tokens. Nothing to train: the grid and the calendar are the vocabulary.

    coordinates   cells       4 tokens: row and column of a 10 degree cell, then of 0.25 degrees inside it
                  fine        6 tokens: those, then row and column of 0.01 degrees, about 1 km
                  terramind   2 tokens: latitude and longitude on TerraMind's grid of 0.25 degrees
    date          3 tokens: year, month, day

Coarse before fine, so that places share tokens with their neighbourhood. TerraMind's vocabulary has
words such as `lat=48.25` and `lon=-120.50`: cells lie around multiples of 0.25 degrees instead of
between them, and both ends of the date line are words.
"""

import datetime
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

COARSE_DEG = 10.0
FINE_DEG = 0.25
_FINE = int(COARSE_DEG / FINE_DEG)
_FINEST = 25
_ROWS, _COLUMNS = 18, 36
FIRST_YEAR, NUM_YEARS = 1980, 100

COORDINATE_SIZES = (_ROWS, _COLUMNS, _FINE, _FINE)
_FINEST_SIZES = (*COORDINATE_SIZES, _FINEST, _FINEST)
# Poles and date line are words of their own: 90 degrees are 360 steps from the equator.
_GRID_SIZES = (721, 1441)
_GRID_ZERO = np.array([360, 720])
DATE_SIZES = (NUM_YEARS, 12, 31)
VERSION = "place-time-v1"


def _offsets(sizes: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes[:-1])])


def coordinate_tokens(lon_lat: np.ndarray) -> np.ndarray:
    """Longitude and latitude in degrees, [2] -> [4] tokens below `sum(COORDINATE_SIZES)`.

    A longitude of 180 to 360 is the same place 360 degrees less. Raises ValueError for a latitude or
    longitude that is not on Earth.
    """
    return _digits(lon_lat)[:4] + _offsets(COORDINATE_SIZES)


def coordinates_of(tokens: np.ndarray) -> np.ndarray:
    """[4] tokens -> longitude and latitude of the middle of the cell, [2] degrees."""
    coarse, fine = _parts(tokens, COORDINATE_SIZES).reshape(2, 2)
    return ((coarse * _FINE + fine + 0.5) * FINE_DEG - [90, 180])[::-1]


def _fine_tokens(lon_lat: np.ndarray) -> np.ndarray:
    return _digits(lon_lat) + _offsets(_FINEST_SIZES)


def _fine_coordinates_of(tokens: np.ndarray) -> np.ndarray:
    coarse, fine, finest = _parts(tokens, _FINEST_SIZES).reshape(3, 2)
    cell = coarse * _FINE + fine + (finest + 0.5) / _FINEST
    return (cell * FINE_DEG - [90, 180])[::-1]


def _grid_tokens(lon_lat: np.ndarray) -> np.ndarray:
    # Halves go to the even neighbour, as in TerraMind's `(coords * 4).round() / 4`.
    steps = np.rint(np.array(_place(lon_lat)) / FINE_DEG).astype(np.int64)
    return steps + _GRID_ZERO + _offsets(_GRID_SIZES)


def _grid_coordinates_of(tokens: np.ndarray) -> np.ndarray:
    return ((_parts(tokens, _GRID_SIZES) - _GRID_ZERO) * FINE_DEG)[::-1]


def _place(lon_lat: np.ndarray) -> tuple[float, float]:
    """Latitude and longitude in -180 to 180, checked."""
    lon, lat = float(lon_lat[0]), float(lon_lat[1])
    if not (abs(lat) <= 90 and -180 <= lon <= 360):
        raise ValueError(f"longitude {lon}, latitude {lat} is not a place on Earth")
    # Climate grids and some products count longitudes from 0 to 360.
    return lat, lon - 360 if lon > 180 else lon


def _digits(lon_lat: np.ndarray) -> np.ndarray:
    """Row and column of the 10 degree cell, of 0.25 degrees in it, of 0.01 degrees in that: [6]."""
    lat, lon = _place(lon_lat)
    digits = []
    for value, num_coarse in ((lat + 90, _ROWS), (lon + 180, _COLUMNS)):
        cell = min(int(value / FINE_DEG), num_coarse * _FINE - 1)
        inside = value / FINE_DEG - cell
        digits.append((cell // _FINE, cell % _FINE, min(int(inside * _FINEST), _FINEST - 1)))
    return np.array(digits).T.ravel()


def _parts(tokens: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Tokens without their offsets; what is out of its range becomes the nearest that is not."""
    return np.clip(tokens - _offsets(sizes), 0, np.array(sizes) - 1)


class CoordinateScheme(NamedTuple):
    """One way to write a place as tokens.

    `encode`: longitude and latitude in degrees [2] -> [n] tokens below `vocab_size`, raising ValueError
    for what is not on Earth. `decode`: [n] tokens -> longitude and latitude of the middle of the cell.
    `sizes`: how many tokens there are to choose from at each of the n places; `cell_deg`: side of a cell.
    """

    version: str
    sizes: tuple[int, ...]
    cell_deg: float
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]

    @property
    def vocab_size(self) -> int:
        return sum(self.sizes)


COORDINATE_SCHEMES = {
    "cells": CoordinateScheme(
        VERSION, COORDINATE_SIZES, FINE_DEG, coordinate_tokens, coordinates_of
    ),
    "terramind": CoordinateScheme(
        "place-terramind-v1", _GRID_SIZES, FINE_DEG, _grid_tokens, _grid_coordinates_of
    ),
    "fine": CoordinateScheme(
        "place-fine-v1", _FINEST_SIZES, FINE_DEG / _FINEST, _fine_tokens, _fine_coordinates_of
    ),
}


def scheme_of(version: str) -> CoordinateScheme:
    """The scheme whose tokens are marked with this version. Raises KeyError for none of ours."""
    return {scheme.version: scheme for scheme in COORDINATE_SCHEMES.values()}[version]


def date_tokens(date: str) -> np.ndarray:
    """ISO date -> [3] tokens below `sum(DATE_SIZES)`. Raises ValueError for what is no date."""
    day = datetime.date.fromisoformat(date)
    if not 0 <= day.year - FIRST_YEAR < NUM_YEARS:
        raise ValueError(f"{date} lies outside {FIRST_YEAR}..{FIRST_YEAR + NUM_YEARS - 1}")
    return np.array([day.year - FIRST_YEAR, day.month - 1, day.day - 1]) + _offsets(DATE_SIZES)


def date_of(tokens: np.ndarray) -> str:
    """[3] tokens -> ISO date; a day that the month lacks becomes its last."""
    year, month, day = _parts(tokens, DATE_SIZES)
    first = datetime.date(int(year) + FIRST_YEAR, int(month) + 1, 1)
    following = (first + datetime.timedelta(days=31)).replace(day=1)
    last_day = (following - datetime.timedelta(days=1)).day
    return first.replace(day=min(int(day) + 1, last_day)).isoformat()
