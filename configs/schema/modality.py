"""What one modality is: the row of the modality registry."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen

Kind = Literal["image", "classes", "text", "coordinates", "date", "vector"]

_DATED = re.compile(r"(\w+)_t([1-9]\d?)")


def dated(name: str, date: int) -> str:
    """The name of a modality on one of several dates: `S2L2A` on the first, 0, then `S2L2A_t1`, ..."""
    return f"{name}_t{date}" if date else name


def undated(name: str) -> tuple[str, int]:
    """Modality and number of the date that a name means: `S2L2A_t1` is S2L2A on date 1."""
    found = _DATED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


# Far beyond the orders of the registry: further dates come behind everything else.
_DATE_ORDER = 1000


class Codec(Frozen):
    """How an array of this modality is stored in a shard.

    `npy` is the raw NumPy format; `blosc2` is one blosc2 chunk around the array's bytes.
    `delta` subtracts the left neighbour first, which pays for smooth integer fields.
    """

    name: Literal["npy", "blosc2"] = "npy"
    level: int = Field(default=1, ge=0, le=9)
    filter: Literal["bitshuffle", "shuffle", "none"] = "bitshuffle"
    delta: bool = False


class ClassInfo(Frozen):
    """One value of a categorical map."""

    value: int = Field(ge=0, le=255)
    name: str
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")


class Display(Frozen):
    """How the modality is shown to a person: up to three bands and the range mapped to black..white.

    Without `range` the picture stretches between the 2nd and 98th percentile of what it shows.
    """

    bands: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    colormap: str | None = None


class Modality(Frozen):
    """A row of the registry.

    `order` fixes the order in which encoders run and columns appear, everywhere and for ever.
    `nodata` marks pixels that carry no measurement; they never enter statistics or losses.
    `valid_range` is inclusive, in `unit`; what lies outside is reported by `shards verify`.
    A `vector` has one number per band and no pixels: a one-hot label, a handful of climate values.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*(_t[1-9][0-9]?)?$")
    title: str
    order: int = Field(ge=0)
    kind: Kind
    bands: tuple[str, ...] = ()
    unit: str = ""
    dtype: Literal["uint8", "int16", "uint16", "float32", "float64", "utf8"]
    nodata: float | None = None
    valid_range: tuple[float, float] | None = None
    statistics: str | None = None
    gsd_m: float | None = Field(default=None, gt=0)
    patch_px: int | None = Field(default=None, gt=0)
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = "nearest"
    codec: Codec = Codec()
    classes: tuple[ClassInfo, ...] = ()
    display: Display = Display()
    notes: str = ""

    def on_date(self, date: int) -> "Modality":
        """The row of a further date: the same in all but its name and its place, behind all others."""
        words = {"name": dated(self.name, date), "title": f"{self.title}, date {date}"}
        return self.model_copy(update=words | {"order": self.order + date * _DATE_ORDER})

    @property
    def num_bands(self) -> int:
        return len(self.bands)

    @property
    def is_map(self) -> bool:
        """True for what has pixels: continuous images and class maps."""
        return self.kind in ("image", "classes")

    @property
    def num_classes(self) -> int:
        """Size of the class axis: one more than the largest class value, so values index it."""
        return 1 + max(c.value for c in self.classes)

    def pixels(self, metres: float) -> int:
        """How many pixels of a map lie along so many metres."""
        assert self.gsd_m is not None
        return round(metres / self.gsd_m)

    def content(self) -> dict[str, Any]:
        """What decides the stored values, as JSON values.

        Titles, notes, colours and what models take by default may change without making the same
        shards another data set.
        """
        words = {"title", "notes", "display", "patch_px", "statistics"}
        return self.model_dump(mode="json", exclude=words)

    @model_validator(mode="after")
    def _consistent(self) -> "Modality":
        if self.kind == "vector" and not self.bands:
            raise ValueError(f"{self.name}: a vector modality needs the names of its bands")
        if self.is_map and not (self.bands and self.gsd_m and self.patch_px):
            raise ValueError(f"{self.name}: a {self.kind} modality needs bands, gsd_m and patch_px")
        if self.kind == "classes" and not self.classes:
            raise ValueError(f"{self.name}: a class map needs its list of classes")
        if self.kind == "classes" and self.resampling != "nearest":
            raise ValueError(
                f"{self.name}: class maps are resampled by nearest neighbour only; "
                "any other rule invents classes"
            )
        unknown = set(self.display.bands) - set(self.bands)
        if unknown:
            raise ValueError(
                f"{self.name}: display names bands that do not exist: {sorted(unknown)}"
            )
        return self
