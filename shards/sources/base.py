"""What the builder asks of a source: a listing of columns, and one sample at a time.

A listing is a `pyarrow.Table` with the columns of `LISTING`, a row per sample in the source's own
stable order: nine million rows take a second to order, and no object each.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from configs.registry import modality
from configs.schema.modality import Modality
from shards.sample import Sample

if TYPE_CHECKING:
    import pyarrow as pa

TAR = "tar"
"""The fault of a tar's last sample that says that more samples may have been behind it."""


class SampleRef(NamedTuple):
    """One row of a listing: a sample before its pixels are read.

    `block` groups samples that lie in one unit of the source (a file, a chunk), so that the plan
    keeps them together and each unit is decoded once. `row` is the source's own number for the
    sample, such as its row in a file. `num_bytes` is an estimate for scheduling.
    """

    key: str
    block: int
    row: int
    lon: float | None
    lat: float | None
    num_bytes: int


class Source(Protocol):
    """A reader of one layout. Opening lists nothing and reads no pixels; it is safe per process."""

    @property
    def name(self) -> str:
        """Short name kept in each sample's meta data."""
        ...

    @property
    def rows(self) -> dict[str, Modality]:
        """What this source can yield, in registry order; rows the registry lacks come last."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of everything that decides the samples' content (files, sizes, options)."""
        ...

    def listing(self) -> "pa.Table":
        """All samples in the source's own stable order. Cheap: no pixels are read."""
        ...

    def read(self, ref: SampleRef) -> Sample:
        """The whole sample; what it lacks is left out, what is unreadable is in its `faults`.

        Raises SampleError when the sample is unusable as a whole.
        """
        ...


@runtime_checkable
class OfFiles(Protocol):
    """A source whose fingerprint knows its files by name and size only."""

    def newest(self) -> tuple[float, Path]:
        """When the file that was written last was written, seconds since 1970, and which it is."""
        ...


def newest_of(files: Iterable[Path]) -> tuple[float, Path]:
    """What `OfFiles.newest` says of these files; those that are not there are left out."""
    newest = (0.0, Path())
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, (path.stat().st_mtime, path))
    return newest


def registry_rows(names: Iterable[str]) -> dict[str, Modality]:
    """The registry's rows of these modalities, in the order given. Raises ConfigError."""
    return {name: modality(name) for name in names}


def make_listing(
    keys: "Sequence[str] | pa.Array",
    *,
    block: Sequence[int] | np.ndarray,
    row: Sequence[int] | np.ndarray | None = None,
    lon: Sequence[float | None] | np.ndarray | None = None,
    lat: Sequence[float | None] | np.ndarray | None = None,
    num_bytes: int | Sequence[int] | np.ndarray = 0,
    split: Sequence[str] | None = None,
) -> "pa.Table":
    """A listing of N samples; `lon`, `lat` are degrees, None or NaN where unknown.

    `row` counts from 0 when it is not given. `split` names the split the source itself puts each
    sample in; a build uses it where its configuration says `splits: source`.
    """
    import pyarrow as pa

    num = len(keys)

    def degrees(values: Sequence[float | None] | np.ndarray | None) -> Any:
        return pa.nulls(num, pa.float64()) if values is None else _nullable(values)

    sizes = np.full(num, num_bytes, np.int64) if isinstance(num_bytes, int) else num_bytes
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.large_string()),
        "block": pa.array(block, pa.int64()),
        "row": pa.array(np.arange(num) if row is None else row, pa.int64()),
        "lon": degrees(lon),
        "lat": degrees(lat),
        "num_bytes": pa.array(sizes, pa.int64()),
    }
    if split is not None:
        columns["split"] = pa.array(split, pa.large_string())
    return pa.table(columns)


def _nullable(values: Sequence[float | None] | np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(np.asarray(values, np.float64), pa.float64(), from_pandas=True)


def refs_of(listing: "pa.Table") -> list[SampleRef]:
    """The rows of (a slice of) a listing."""
    columns = [listing.column(name).to_pylist() for name in SampleRef._fields]
    return [SampleRef(*values) for values in zip(*columns, strict=True)]
