"""Which pixels of a sample a tokenizer learns from and is scored on, by the sample's cloud mask."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs import ConfigError
from configs.registry import CLOUD_MASK
from configs.schema import Modality
from pipeline.data.transforms import cut
from shards import SampleSet
from shards.sample import Part


class Tile(NamedTuple):
    """A map [C, H, W] and where it counts by the cloud mask, bool [1, H, W]; None: everywhere."""

    x: np.ndarray
    clear: np.ndarray | None

    def cut(self, row: Modality, top_m: float, left_m: float, size_m: float) -> "Tile":
        """The window of both that starts `top_m`, `left_m` from their corner."""
        x, clear = cut(self.x, row, top_m, left_m, size_m), self.clear
        return Tile(x, clear if clear is None else cut(clear, row, top_m, left_m, size_m))


class ClearOf:
    """Where a modality is clear of the named classes of CloudMask.

    A pixel larger than the mask's is clear where all pixels of the mask in it are. Pixels without a
    class are clear, and so is all of a sample without the mask: nobody says that there are clouds.

    Raises ConfigError when none of the samples `indices` has the mask, or the modality's pixels are
    not whole numbers of the mask's.
    """

    def __init__(
        self, dataset: SampleSet, row: Modality, classes: Sequence[str], indices: np.ndarray
    ):
        wish = f"tokenizer.loss.clear_of={list(classes)}"
        known = CLOUD_MASK in dataset.modalities
        if not known or not dataset.present(CLOUD_MASK)[indices].any():
            raise ConfigError(
                f"{wish}: {'no sample to train on in' if known else 'nothing in'} {dataset.path} has "
                f"{CLOUD_MASK}; build shards of TerraMesh or SSL4EO-S12 with source.modalities "
                f"including {CLOUD_MASK}, or add it with add-modality"
            )
        mask = dataset.modalities[CLOUD_MASK]
        assert row.gsd_m is not None
        assert mask.gsd_m is not None
        if row.gsd_m % mask.gsd_m:
            raise ConfigError(
                f"{wish}: pixels of {row.name} are {row.gsd_m:g} m, no multiple of the {mask.gsd_m:g} m "
                f"of {CLOUD_MASK}; leave clear_of empty"
            )
        self.path, self.row, self.ratio = dataset.path, row, int(row.gsd_m // mask.gsd_m)
        self._hides = np.zeros(256, bool)
        self._hides[[c.value for c in mask.classes if c.name in classes]] = True

    def __call__(self, parts: Mapping[str, Part], height: int, width: int) -> np.ndarray | None:
        """Where a map of height x width pixels is clear, bool [1, H, W]; None without a mask.

        Raises ConfigError when the mask is not of the same extent.
        """
        mask = parts.get(CLOUD_MASK)
        if mask is None:
            return None
        assert isinstance(mask, np.ndarray)
        n = self.ratio
        if mask.shape != (1, height * n, width * n):
            raise ConfigError(
                f"{self.path}: {CLOUD_MASK} of shape {mask.shape} does not show the ground of "
                f"{height} x {width} px of {self.row.name}; build both from one source, or leave "
                "tokenizer.loss.clear_of empty"
            )
        hidden = self._hides[mask].reshape(1, height, n, width, n)
        return np.logical_not(hidden.any(axis=(2, 4)))
