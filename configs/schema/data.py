"""Which samples a run sees, and how they are read."""

import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from configs.schema.base import Frozen


def _folder_or_url(value: Path | str) -> Path | str:
    # A Path folds the slashes of `http://`, so what looks like one must come as text.
    return value if "://" in str(value) else Path(value)


FolderOrUrl = Annotated[Path | str, AfterValidator(_folder_or_url)]


class SampleFilter(Frozen):
    """Which samples of a split are used; evaluated on index and samples table, no pixel is read.

    `require` are modalities a sample must have all of, `any_of` modalities it must have one of.
    `region` is west, south, east, north in degrees (west > east crosses the antimeridian); `dates`
    the first and last day, inclusive, on which some modality was acquired; `max_cloud` the largest
    share of cloudy pixels. A sample that does not say where, when or how cloudy fails such a test.
    """

    require: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    region: tuple[float, float, float, float] | None = None
    dates: tuple[datetime.date, datetime.date] | None = None
    max_cloud: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> "SampleFilter":
        if self.dates and self.dates[0] > self.dates[1]:
            raise ValueError(f"dates go from the first day to the last, got {self.dates}")
        if self.region and self.region[1] > self.region[3]:
            raise ValueError(f"region is west, south, east, north in degrees, got {self.region}")
        return self


class MixedIn(Frozen):
    """Another shard set of a mixture and its share of the samples seen."""

    shards: FolderOrUrl
    weight: float = Field(default=1.0, gt=0)


class DataConfig(Frozen):
    """A view of one shard set, or of a mixture of several.

    `statistics` names where normalisation comes from: `manifest` (measured when the shards were
    built), `registry` (each modality's own published set), a set in `configs/statistics/`, or a YAML
    file that `python -m shards stats` wrote.
    `mix` adds shard sets: each training sample is drawn from one of them, in proportion to the
    weights, `weight` being that of `shards`. `splitting` names splits made by `python -m shards
    split`; empty takes those of the build.

    `window` limits the shuffle to that many neighbours in storage at a time, for slow disks; 0
    shuffles over everything. `readers` threads read ahead `prefetch_batches` steps. `cache` is a
    folder on a fast local disk that gets copies of shards as they are read, up to `cache_gb`.
    """

    shards: FolderOrUrl
    weight: float = Field(default=1.0, gt=0)
    mix: tuple[MixedIn, ...] = ()
    split: str = "train"
    eval_split: str = "val"
    splitting: str = ""
    filter: SampleFilter = SampleFilter()
    statistics: str = "manifest"
    window: int = Field(default=0, ge=0)
    readers: int = Field(default=1, gt=0)
    prefetch_batches: int = Field(default=2, ge=0)
    cache: Path | None = None
    cache_gb: float = Field(default=500.0, gt=0)

    def order_of_samples(self) -> dict[str, object]:
        """What decides which samples come when, beside the data set's content and the seed."""
        names = {"weight", "mix", "splitting", "filter", "window"}
        return self.model_dump(mode="json", include=names)
