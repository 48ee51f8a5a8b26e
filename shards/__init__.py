"""Second floor: aligned multi-modal samples on disk.

    sources -> samples -> plan -> tar shards + index -> dataset

A sample may lack any modality: presence is an explicit bit from the source to the index. A shard
exists when it is committed (temporary name, fsync, rename) and not before. Nothing here imports
torch.
"""

from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.sample import Sample, SampleMeta

__all__ = ["Dataset", "Sample", "SampleMeta", "ShardError", "open_dataset"]
