"""Second floor: aligned multi-modal samples on disk.

    sources -> samples -> plan -> tar shards + index -> dataset

A sample may lack any modality: presence is an explicit bit from the source to the index. A shard
exists when it is committed (temporary name, fsync, rename) and not before. Nothing here imports
torch, and importing this package imports nothing heavier than the errors: the rest loads on use.
"""

from typing import TYPE_CHECKING, Any

from shards.errors import DamagedError, ShardError

if TYPE_CHECKING:
    from shards.dataset import Dataset, open_dataset
    from shards.mixed import MixedDataset, SampleSet, open_data
    from shards.sample import Sample, SampleMeta

__all__ = [
    "DamagedError",
    "Dataset",
    "MixedDataset",
    "Sample",
    "SampleMeta",
    "SampleSet",
    "ShardError",
    "open_data",
    "open_dataset",
]

_HOMES = {
    "Dataset": "shards.dataset",
    "open_dataset": "shards.dataset",
    "MixedDataset": "shards.mixed",
    "SampleSet": "shards.mixed",
    "open_data": "shards.mixed",
    "Sample": "shards.sample",
    "SampleMeta": "shards.sample",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
