"""Pixels of several modalities as one batch: the same ground, the same turn, honest about what is missing.

    batch = {
        "S2L2A": float32 [B, C, H, W], "LULC": uint8 [B, 1, H, W], ...     normalised; classes as they are
        "valid/S2L2A": bool [B, H, W], ...                                 where there is a measurement
        "present": bool [B, M]                                             which modalities a sample has
    }

H and W are those of the window at the modality's own ground sampling distance. A missing modality is
zero and nowhere valid; so are pixels without a measurement. Class maps are cut and turned, never
interpolated: they hold no class that was not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from configs import ConfigError
from configs.schema import Modality
from pipeline.data.loader import Batch
from pipeline.data.transforms import (
    GRID_M,
    Normaliser,
    cut,
    flip_and_turn,
    prepare,
    window_start,
)
from shards import SampleSet

PRESENT = "present"


def valid_name(modality: str) -> str:
    """The key of a modality's validity mask."""
    return f"valid/{modality}"


@dataclass(frozen=True)
class Pixels:
    """One sample: values [C, H, W] and valid [H, W] of each modality it has."""

    values: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]


class PixelReader:
    """Windows of `window_m` metres of the named map modalities.

    `normalisers` has one for every image; class maps have none. Raises ConfigError for names that are
    no maps, or a window that is not a whole number of a modality's pixels.
    """

    def __init__(
        self,
        dataset: SampleSet,
        names: Sequence[str],
        normalisers: Mapping[str, Normaliser],
        window_m: float,
        *,
        augment: bool = True,
    ):
        self.dataset, self.names, self.normalisers = dataset, tuple(names), normalisers
        self.window_m, self.augment = window_m, augment
        self.rows = {name: dataset.modalities[name] for name in self.names}
        for name, row in self.rows.items():
            if not row.is_map:
                raise ConfigError(f"{name} is a {row.kind} modality and has no pixels")
            assert row.gsd_m is not None
            if window_m % row.gsd_m or (row.kind == "image") != (name in normalisers):
                raise ConfigError(
                    f"a window of {window_m:g} m of {name} ({row.gsd_m:g} m a pixel): use a multiple of "
                    f"{GRID_M} m, and a normaliser for images alone"
                )

    def sample(self, index: int, rng: np.random.Generator) -> Pixels:
        """A window at random, in one of the 8 symmetries of the square; all from `rng`."""
        parts = self._maps(index)
        down, right = (rng.random(), rng.random()) if self.augment else (0.5, 0.5)
        top, left = self._corner(parts, down, right)
        found = Pixels({}, {})
        # Modalities in the order of names, whatever the sample has: what is drawn must not depend on it.
        for name, part in parts.items():
            row = self.rows[name]
            window = cut(part, row, top, left, self.window_m)
            values, valid = prepare(window, row, self.normalisers.get(name))
            found.values[name], found.valid[name] = values, valid
        if self.augment and parts:
            arrays = flip_and_turn([*found.values.values(), *found.valid.values()], rng)
            half = len(arrays) // 2
            found = Pixels(
                dict(zip(parts, arrays[:half], strict=True)),
                dict(zip(parts, arrays[half:], strict=True)),
            )
        return found

    def centre(self, row: Modality, part: np.ndarray) -> np.ndarray:
        """The middle window of a map of any modality, as it is stored: what is read without `augment`."""
        assert row.gsd_m is not None
        top, left = (window_start(size * row.gsd_m, self.window_m, 0.5) for size in part.shape[1:])
        return cut(part, row, top, left, self.window_m)

    def collate(self, samples: Sequence[Pixels]) -> Batch:
        """Samples -> one batch; see the module's docstring."""
        batch: Batch = {
            PRESENT: torch.tensor([[name in s.values for name in self.names] for s in samples])
        }
        for name, row in self.rows.items():
            side = row.pixels(self.window_m)
            dtype = np.float32 if name in self.normalisers else np.uint8
            values = np.zeros((len(samples), row.num_bands, side, side), dtype)
            valid = np.zeros((len(samples), side, side), bool)
            for b, sample in enumerate(samples):
                if name in sample.values:
                    values[b], valid[b] = sample.values[name], sample.valid[name]
            batch[name], batch[valid_name(name)] = torch.from_numpy(values), torch.from_numpy(valid)
        return batch

    def _maps(self, index: int) -> dict[str, np.ndarray]:
        read = self.dataset.read(index, self.names)
        return {n: part for n in self.names if isinstance(part := read.get(n), np.ndarray)}

    def _corner(
        self, parts: Mapping[str, np.ndarray], down: float, right: float
    ) -> tuple[float, float]:
        """Metres from the tile's corner, a multiple of GRID_M, at these shares of the room."""
        corner = []
        for axis, share in ((1, down), (2, right)):
            extent = min(
                (p.shape[axis] * (self.rows[n].gsd_m or 0) for n, p in parts.items()),
                default=self.window_m,
            )
            try:
                corner.append(window_start(extent, self.window_m, share))
            except ValueError as error:
                raise ConfigError(f"{self.dataset.path}: {error}") from error
        return corner[0], corner[1]
