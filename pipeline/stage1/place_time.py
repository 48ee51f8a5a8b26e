"""Coordinates and dates as tokens. Nothing to train: the grid and the calendar are the vocabulary.

    coordinates   4 tokens: row and column of a 10 degree cell, then of 0.25 degrees inside it
    date          3 tokens: year, month, day

Coarse before fine, so that places share tokens with their neighbourhood; the finest step is the
0.25 degrees of TerraMind.
"""

import datetime

import numpy as np

COARSE_DEG = 10.0
FINE_DEG = 0.25
_FINE = int(COARSE_DEG / FINE_DEG)
_ROWS, _COLUMNS = 18, 36
FIRST_YEAR, NUM_YEARS = 1980, 100

COORDINATE_SIZES = (_ROWS, _COLUMNS, _FINE, _FINE)
DATE_SIZES = (NUM_YEARS, 12, 31)
VERSION = "place-time-v1"

# By kind of modality: tokens per sample, and how many there are to choose from.
TOKENS = {
    "coordinates": (len(COORDINATE_SIZES), sum(COORDINATE_SIZES)),
    "date": (len(DATE_SIZES), sum(DATE_SIZES)),
}


def _offsets(sizes: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes[:-1])])


def coordinate_tokens(lon_lat: np.ndarray) -> np.ndarray:
    """Longitude and latitude in degrees, [2] -> [4] tokens below `sum(COORDINATE_SIZES)`.

    Raises ValueError for a latitude or longitude that is not on Earth.
    """
    lon, lat = float(lon_lat[0]), float(lon_lat[1])
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"longitude {lon}, latitude {lat} is not a place on Earth")
    row = min(int((lat + 90) / FINE_DEG), _ROWS * _FINE - 1)
    column = min(int((lon + 180) / FINE_DEG), _COLUMNS * _FINE - 1)
    parts = np.array([row // _FINE, column // _FINE, row % _FINE, column % _FINE])
    return parts + _offsets(COORDINATE_SIZES)


def coordinates_of(tokens: np.ndarray) -> np.ndarray:
    """[4] tokens -> longitude and latitude of the middle of the cell, [2] degrees."""
    low = _offsets(COORDINATE_SIZES)
    row, column, fine_row, fine_column = np.clip(tokens - low, 0, np.array(COORDINATE_SIZES) - 1)
    lat = (row * _FINE + fine_row + 0.5) * FINE_DEG - 90
    lon = (column * _FINE + fine_column + 0.5) * FINE_DEG - 180
    return np.array([lon, lat])


def date_tokens(date: str) -> np.ndarray:
    """ISO date -> [3] tokens below `sum(DATE_SIZES)`. Raises ValueError for what is no date."""
    day = datetime.date.fromisoformat(date)
    if not 0 <= day.year - FIRST_YEAR < NUM_YEARS:
        raise ValueError(f"{date} lies outside {FIRST_YEAR}..{FIRST_YEAR + NUM_YEARS - 1}")
    return np.array([day.year - FIRST_YEAR, day.month - 1, day.day - 1]) + _offsets(DATE_SIZES)


def date_of(tokens: np.ndarray) -> str:
    """[3] tokens -> ISO date; a day that the month lacks becomes its last."""
    year, month, day = np.clip(tokens - _offsets(DATE_SIZES), 0, np.array(DATE_SIZES) - 1)
    first = datetime.date(int(year) + FIRST_YEAR, int(month) + 1, 1)
    following = (first + datetime.timedelta(days=31)).replace(day=1)
    last_day = (following - datetime.timedelta(days=1)).day
    return first.replace(day=min(int(day) + 1, last_day)).isoformat()
