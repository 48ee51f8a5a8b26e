"""Days as sines and cosines: which season it is, and about which year.

A day is a point in years, and each period a circle it goes round: a year and its harmonics tell the
season, longer periods the years. The month on a circle is Presto's and Galileo's (Tseng et al. 2023,
2025); harmonics of the year describe what vegetation does in Zhu & Woodcock 2014. Days and not
months, because two images of one month may lie a harvest apart; circles and not the numbers 1 to 365,
because the last day of a year is next to the first.
"""

import datetime
import functools
import math

import numpy as np

PERIODS_YEARS = (1 / 4, 1 / 3, 1 / 2, 1, 4, 16, 64)
NUM_FEATURES = 2 * len(PERIODS_YEARS)
_FIRST_YEAR = 2000


def years_of(day: datetime.date) -> float:
    """Years since the beginning of 2000, so that every year's 1 January is a whole number."""
    start, end = datetime.date(day.year, 1, 1), datetime.date(day.year, 12, 31)
    return day.year - _FIRST_YEAR + (day - start).days / ((end - start).days + 1)


@functools.lru_cache(maxsize=1 << 14)
def date_features(day: str) -> np.ndarray:
    """ISO day -> [NUM_FEATURES] float32, sines before cosines. Raises ValueError for what is no day.

    A day that is not known has zeros instead.
    """
    years = years_of(datetime.date.fromisoformat(day))
    angles = np.array([2 * math.pi * (years / period % 1) for period in PERIODS_YEARS])
    return np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)
