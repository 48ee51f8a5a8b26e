"""Samples with a flaw each and a series with an offset, to be planted, and what `verify` says of them."""

import datetime
from collections.abc import Callable

import numpy as np

from shards.checks.drift import OFFSET_DAY
from shards.sample import Sample
from shards.verify import Report
from tests.shards.planted import DAY, PX, image, place, sample


def told(report: Report) -> list[tuple[str, str]]:
    return [(f.severity, f"{f.where}: {f.what}") for f in report.findings]


def constant() -> np.ndarray:
    return np.full((12, PX, PX), 700, np.int16)


def with_twin_bands() -> np.ndarray:
    array = image(1)
    array[5] = array[2]
    return array


def with_infinity() -> np.ndarray:
    array = image(1, "S1GRD")
    array[0, 0, 0] = -np.inf
    return array


SINGLE = {
    "ground": (sample(1, {"DEM": image(1, "DEM", 8)}), "error", "S2L2A, DEM: maps that cover"),
    "pixels": (
        sample(1, transform=(20.0, 0.0, 3e5, 0.0, -20.0, 5e6)),
        "warning",
        "meta: a transform whose pixels are not those of the 10 m grid",
    ),
    "centre": (
        sample(1, {"coordinates": np.array([16.0, 45.0])}, lon=16.0, lat=45.0),
        "warning",
        "meta: lon and lat more than half a tile from the centre of the transform",
    ),
    "crs": (sample(1, crs="EPSG:1"), "warning", "meta: a CRS that is not understood (EPSG:1)"),
    "coordinates": (
        sample(1, {"coordinates": np.array(place(1)[1:]) + 0.001}),
        "warning",
        "coordinates: coordinates that differ from lon and lat",
    ),
    "date": (sample(1, {"date": "2021-07-22"}), "warning", "date: a date that is no modality's"),
    "window": (
        sample(1, times={"S2L2A": DAY, "S1GRD": "2021-05-23"}),
        "warning",
        "times: modalities acquired more than 45 days apart in 1 of 4 samples, such as place1 "
        "(S1GRD and S2L2A: 61 days)",
    ),
    "epoch": (
        sample(1, times={"S2L2A": DAY, "DEM": "1970-01-01"}),
        "warning",
        "DEM: a day before 1972-07-23, in the future, or none at all",
    ),
    "future": (sample(1, times={"S2L2A": DAY, "DEM": "2999-01-01"}), "warning", "DEM: a day"),
    "no day": (sample(1, times={"S2L2A": DAY, "S1GRD": "soon"}), "warning", "S1GRD: a day"),
    "twins": (sample(1, {"S2L2A": with_twin_bands()}), "warning", "S2L2A: identical bands (B03, B06)"),
    "constant": (sample(1, {"S2L2A": constant()}), "warning", "S2L2A: a constant image"),
    "empty": (sample(1, {"S2L2A": constant() * 0}), "warning", "S2L2A: no valid pixel"),
    "infinite": (sample(1, {"S1GRD": with_infinity()}), "warning", "S1GRD: infinite values"),
}  # fmt: skip


def series(
    offset: float, name: str = "S2L2A", days: int = 40, source: Callable[[int], str] = str
) -> list[Sample]:
    """A sample every twelve days around the day of the offset, which half of them have."""
    samples = []
    for i in range(days):
        day = OFFSET_DAY + datetime.timedelta(12 * (i - days // 2) + 1)
        array = image(i, name)
        if day >= OFFSET_DAY:
            array = (array + offset).astype(array.dtype)
        samples.append(
            sample(i, {name: array, "date": day.isoformat()}, times={name: day.isoformat()})
        )
    return samples
