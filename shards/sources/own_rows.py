"""Rows for what a data set holds and the registry does not: its own bands, its labels.

They are stored with the shards like any row, and come after those of the registry.
"""

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np

from configs.schema import ClassInfo, Codec, Display, Modality
from shards.errors import SampleError, SourceError

FIRST_ORDER = 100_000
"""Above every order in the registry, however it grows."""

_CODEC = Codec(name="blosc2", level=1, filter="bitshuffle")
# Class maps are long runs, which a filter only breaks up.
_CLASS_CODEC = Codec(name="blosc2", level=1, filter="none")
_DTYPES = ("uint8", "int16", "uint16", "float32", "float64")
_GOLDEN = 0.6180339887498949
_LIGHTNESSES = (0.5, 0.3, 0.7, 0.4, 0.6)


def image_row(
    name: str, title: str, bands: Sequence[str], dtype: np.dtype, gsd_m: float, number: int = 0
) -> Modality:
    """An image with these bands, in the smallest type of the registry that holds `dtype`'s values.

    `number` orders the rows of one source. Raises SourceError for values that are no numbers.
    """
    fitting = next((t for t in _DTYPES if np.can_cast(dtype, t)), None)
    if fitting is None:
        raise SourceError(f"{name}: values of type {dtype} cannot be stored")
    return Modality(
        name=name,
        title=title,
        order=FIRST_ORDER + number,
        kind="image",
        bands=tuple(bands),
        dtype=fitting,  # pyright: ignore[reportArgumentType]
        nodata=float("nan") if fitting.startswith("float") else None,
        gsd_m=gsd_m,
        patch_px=16,
        resampling="bilinear",
        codec=_CODEC,
        display=Display(bands=_shown(bands)),
    )


def label_row(name: str, title: str, classes: Sequence[str], number: int = 0) -> Modality:
    """A label of the whole sample: one 0 or 1 per class."""
    return Modality(
        name=name,
        title=title,
        order=FIRST_ORDER + number,
        kind="vector",
        bands=tuple(classes),
        unit="1",
        dtype="uint8",
        valid_range=(0, 1),
    )


def class_map_row(
    name: str, title: str, classes: Sequence[str], gsd_m: float, number: int = 0
) -> Modality:
    """A map of the classes 0 .. n-1. Raises SourceError for more classes than a byte can tell."""
    if len(classes) > 256:
        raise SourceError(f"{name}: a class map holds 256 classes at most, not {len(classes)}")
    colors = distinct_colors(len(classes))
    return Modality(
        name=name,
        title=title,
        order=FIRST_ORDER + number,
        kind="classes",
        bands=("class",),
        unit="class",
        dtype="uint8",
        valid_range=(0, len(classes) - 1),
        gsd_m=gsd_m,
        patch_px=16,
        codec=_CLASS_CODEC,
        classes=tuple(
            ClassInfo(value=v, name=n, color=c)
            for v, (n, c) in enumerate(zip(classes, colors, strict=True))
        ),
        display=Display(bands=("class",)),
    )


def distinct_colors(num: int) -> list[str]:
    """`num` different colours, always the same: hues by the golden ratio, lightness in turns."""
    found = []
    for i in range(num):
        lightness = _LIGHTNESSES[i % len(_LIGHTNESSES)]
        rgb = colorsys.hls_to_rgb(i * _GOLDEN % 1, lightness, 0.75)
        found.append("#" + "".join(f"{round(v * 255):02x}" for v in rgb))
    return found


def hot(classes: Iterable[int], row: Modality, where: object) -> np.ndarray:
    """The label with a 1 for each of `classes`: uint8 (C,). Raises SampleError for other classes."""
    vector = np.zeros(row.num_bands, row.dtype)
    for value in classes:
        if not 0 <= value < row.num_bands:
            raise SampleError(
                f"{where}: {row.name} has the classes 0 .. {row.num_bands - 1}, not {value}"
            )
        vector[value] = 1
    return vector


def _shown(bands: Sequence[str]) -> tuple[str, ...]:
    """The bands that a picture shows: red, green and blue where names end so, else the first."""
    by_color = {band.lower().rpartition(" ")[2]: band for band in bands}
    rgb = tuple(by_color[color] for color in ("red", "green", "blue") if color in by_color)
    return rgb if len(rgb) == 3 else tuple(bands[:1])
