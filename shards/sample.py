"""What one sample is: parts by modality name, and where and when it was seen.

    part of an `image` or `classes` modality   array (C, H, W) in the registry's dtype and band order
    part of a `text` modality                  str
    part of `coordinates`                      array (2,) float64: longitude, latitude in degrees
    part of `date`                             str, ISO 8601: "2021-07-23"

A modality that is missing has no entry. There is no sentinel for "missing".
"""

from dataclasses import dataclass, field

import numpy as np

Part = np.ndarray | str


@dataclass(frozen=True)
class SampleMeta:
    """Where and when: enough to write a GeoTIFF of any map of the sample.

    `lon`, `lat` are degrees of the centre (WGS 84). `transform` is the affine transform of a 10 m
    map, (a, b, c, d, e, f) with x = a*col + b*row + c and y = d*col + e*row + f in `crs` units.
    `times` maps a modality to its acquisition day, ISO 8601.
    """

    lon: float | None = None
    lat: float | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    times: dict[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Sample:
    """One place: its key (unique in the data set, no dot), its parts, its meta data."""

    key: str
    parts: dict[str, Part]
    meta: SampleMeta
