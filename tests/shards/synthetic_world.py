"""A synthetic Earth of some hundred small tiles, and how tests look at it."""

import numpy as np

from configs.schema import SyntheticSourceConfig
from shards.sample import Sample
from shards.sources.synthetic import SyntheticSource

TILE_PX = 48
NUM_SAMPLES = 420
NUM_FIT = 280
WATER, TREES, SNOW = 1, 2, 7


def source_of(**options) -> SyntheticSource:
    return SyntheticSource(SyntheticSourceConfig(**{"tile_px": TILE_PX, "seed": 3, **options}))


def image(sample: Sample, name: str) -> np.ndarray:
    part = sample.parts[name]
    assert isinstance(part, np.ndarray)
    return part
