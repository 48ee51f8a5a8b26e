"""Which samples pass a filter, told by the index and the samples table alone."""

from typing import TYPE_CHECKING, Any

import numpy as np

from configs.schema.data import SampleFilter
from shards.errors import ShardError
from shards.manifest import SAMPLES

if TYPE_CHECKING:
    from shards.dataset import Dataset


def matching(dataset: "Dataset", wanted: SampleFilter) -> np.ndarray:
    """The samples that pass: bool [N]. Raises ShardError for modalities the data set lacks."""
    passed = np.ones(dataset.num_samples, bool)
    for name in wanted.require:
        passed &= dataset.present(name)
    if wanted.any_of:
        passed &= np.any([dataset.present(name) for name in wanted.any_of], axis=0)
    if wanted.region:
        passed &= _inside(dataset, *wanted.region)
    if wanted.dates:
        passed &= _acquired(dataset, *(day.isoformat() for day in wanted.dates))
    if wanted.max_cloud is not None:
        # NaN, for unknown, compares false.
        passed &= _numbers(dataset, "cloud") <= wanted.max_cloud
    return passed


def _inside(dataset: "Dataset", west: float, south: float, east: float, north: float) -> np.ndarray:
    lon, lat = _numbers(dataset, "lon"), _numbers(dataset, "lat")
    between = (lon >= west) & (lon <= east)
    if west > east:
        between = (lon >= west) | (lon <= east)
    return between & (lat >= south) & (lat <= north)


def _acquired(dataset: "Dataset", first: str, last: str) -> np.ndarray:
    """Samples some modality of which was acquired in the span; ISO days sort as text."""
    import pyarrow.compute

    pc: Any = pyarrow.compute
    times = samples_columns(dataset, ["times"]).column("times").combine_chunks()
    days = times.items
    fits = pc.and_(pc.greater_equal(days, first), pc.less_equal(days, last))
    hits = np.concatenate([[0], np.cumsum(fits.to_numpy(zero_copy_only=False))])
    offsets = times.offsets.to_numpy() - times.offsets[0].as_py()
    return np.asarray(hits[offsets[1:]] > hits[offsets[:-1]])


def _numbers(dataset: "Dataset", name: str) -> np.ndarray:
    return samples_columns(dataset, [name]).column(name).to_numpy()


def samples_columns(dataset: "Dataset", names: list[str] | None = None) -> Any:
    """Columns of samples.parquet (all by default) as a table. Raises ShardError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = dataset.path / SAMPLES
    try:
        table = pq.read_table(path, columns=names, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path}: {error}; remove it and run the same build again") from error
    if table.num_rows != dataset.num_samples:
        raise ShardError(
            f"{path} has {table.num_rows} rows, the index {dataset.num_samples} samples; remove it "
            "and run the same build again"
        )
    return table
