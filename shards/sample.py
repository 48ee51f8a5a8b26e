"""What one sample is: parts by modality name, and where and when it was seen.

    part of an `image` or `classes` modality   array (C, H, W) in the registry's dtype and band order
    part of a `text` modality                  str
    part of `coordinates`                      array (2,) float64: longitude, latitude in degrees
    part of `date`                             str, ISO 8601: "2021-07-23"
    part of a `vector` modality                array (C,): one value per band, such as a one-hot label

A modality that is missing has no entry. There is no sentinel for "missing".
"""

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from configs.schema.modality import Modality
from shards.errors import SampleError

Part = np.ndarray | str


@dataclass(frozen=True)
class SampleMeta:
    """Where and when: enough to write a GeoTIFF of any map of the sample.

    `lon`, `lat` are degrees of the centre (WGS 84). `transform` is the affine transform of a 10 m
    map, (a, b, c, d, e, f) with x = a*col + b*row + c and y = d*col + e*row + f in `crs` units.
    `times` maps a modality to its acquisition day, ISO 8601, `products` to the name of the product
    it was cut from. `cloud` is the share of cloudy pixels, 0 to 1.
    """

    lon: float | None = None
    lat: float | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    times: dict[str, str] = field(default_factory=dict)
    source: str = ""
    cloud: float | None = None
    products: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One place: its key (unique in the data set, no dot), its parts, its meta data.

    `faults` are modalities the source has but could not read, each with the reason; they are not
    among the parts.
    """

    key: str
    parts: dict[str, Part]
    meta: SampleMeta
    faults: dict[str, str] = field(default_factory=dict)


def checked(sample: Sample, modalities: Mapping[str, Modality]) -> Sample:
    """Hold a sample against its rows before it is stored: what does not fit becomes a fault.

    Raises SampleError for a part that its source did not announce, or when no part is left.
    """
    faults = dict(sample.faults)
    for name, part in sample.parts.items():
        if name not in modalities:
            raise SampleError(
                f"sample {sample.key!r} has a part {name!r} that its source did not announce"
            )
        wrong = part_problem(part, modalities[name])
        if wrong:
            faults[name] = wrong
    parts = {name: part for name, part in sample.parts.items() if name not in faults}
    if not parts:
        reasons = "; ".join(f"{name}: {why}" for name, why in faults.items())
        raise SampleError(f"sample {sample.key!r} has no usable part{reasons and f' ({reasons})'}")
    return dataclasses.replace(sample, parts=parts, faults=faults)


def part_problem(part: Part, row: Modality) -> str | None:
    """What makes `part` differ from its registry row, in words; None when nothing does."""
    if row.kind in ("text", "date"):
        if not isinstance(part, str):
            return f"expected text, found {type(part).__name__}"
        return _date_problem(part) if row.kind == "date" else None
    if not isinstance(part, np.ndarray):
        return f"expected an array, found {type(part).__name__}"
    if part.dtype != np.dtype(row.dtype):
        return f"expected {row.dtype}, found {part.dtype}"
    if row.kind == "coordinates":
        return None if part.shape == (2,) else f"expected shape (2,), found {part.shape}"
    if row.kind == "vector":
        expected = (row.num_bands,)
        return None if part.shape == expected else f"expected {expected}, found {part.shape}"
    if part.ndim != 3 or part.shape[0] != row.num_bands or 0 in part.shape:
        return f"expected shape ({row.num_bands}, H, W), found {part.shape}"
    if row.kind == "classes" and int(part.max()) >= row.num_classes:
        return f"class {int(part.max())} is not one of 0 .. {row.num_classes - 1}"
    return None


def _date_problem(text: str) -> str | None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return f"expected a day such as 2021-07-23, found {text!r}"
    return None
