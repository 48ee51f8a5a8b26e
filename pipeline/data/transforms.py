"""What is done to the pixels of one sample before a model sees them.

Windows are given in metres, so that one window cuts the same ground from maps of any resolution.
"""

import math
from collections.abc import Iterable

import numpy as np

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import DataConfig, Modality
from shards import SampleSet
from shards.stats import valid_pixels

# Windows start on multiples of this, so that 10, 20 and 30 m grids are all cut between pixels.
GRID_M = 60


def measured_pixels(x: np.ndarray, modality: Modality) -> np.ndarray:
    """True where all bands carry a measurement: [C, H, W] -> bool [H, W]."""
    return np.asarray(valid_pixels(x, modality).all(axis=0))


class Normaliser:
    """Physical units <-> zero mean, unit deviation, per band of one modality.

    The statistics are part of every artifact: weights are only right with their own.
    """

    def __init__(self, modality: Modality, statistics: BandStatistics):
        if len(statistics.mean) != modality.num_bands:
            raise ConfigError(
                f"{modality.name} has {modality.num_bands} bands, its statistics {len(statistics.mean)}"
            )
        self.modality = modality
        self.statistics = statistics
        self._mean = np.asarray(statistics.mean, dtype=np.float32)[:, None, None]
        self._std = np.maximum(np.asarray(statistics.std, dtype=np.float32), 1e-6)[:, None, None]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[C, H, W] in physical units -> (normalised float32 [C, H, W], valid bool [H, W]).

        Pixels without a measurement become 0, the mean.
        """
        valid = measured_pixels(x, self.modality)
        y = (x.astype(np.float32) - self._mean) / self._std
        y[:, ~valid] = 0.0
        return y, valid

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Normalised [..., C, H, W] -> physical units, float32."""
        return y * self._std + self._mean


def statistics_for(dataset: SampleSet, modality: str, config: DataConfig) -> BandStatistics:
    """The statistics a configuration asks for. Raises ConfigError when there are none."""
    from configs.registry import statistics_set

    row = dataset.modalities[modality]
    if config.statistics == "manifest":
        table, where = dataset.statistics, f"the manifest of {dataset.path}"
    elif config.statistics == "registry":
        if row.statistics is None:
            raise ConfigError(f"{modality} names no statistics set; write data.statistics=manifest")
        table, where = statistics_set(row.statistics), row.statistics
    else:
        table, where = statistics_set(config.statistics), config.statistics
    if modality not in table:
        raise ConfigError(
            f"{where} has no statistics for {modality}; write data.statistics=manifest"
        )
    return table[modality]


def window_offsets(extent_m: float, window_m: float, per_side: int) -> list[float]:
    """Start of each of `per_side` fixed windows along one side, in metres; 1 is the centre.

    Raises ValueError when the window is larger than the extent.
    """
    room = _room(extent_m, window_m)
    wanted = [room / 2] if per_side == 1 else [room * i / (per_side - 1) for i in range(per_side)]
    return [GRID_M * math.floor(w / GRID_M) for w in wanted]


def window_start(extent_m: float, window_m: float, share: float) -> int:
    """Where a window starts along one side, in metres: at this share, 0 to 1, of the room around it.

    A multiple of GRID_M; every such place is as likely as the others when `share` is uniform.
    Raises ValueError when the window is larger than the extent.
    """
    room = _room(extent_m, window_m)
    return GRID_M * min(int(share * (room / GRID_M + 1)), int(room // GRID_M))


def _room(extent_m: float, window_m: float) -> float:
    if extent_m < window_m:
        raise ValueError(f"a window of {window_m:g} m does not fit a tile of {extent_m:g} m")
    return extent_m - window_m


def prepare(
    x: np.ndarray, modality: Modality, normaliser: Normaliser | None
) -> tuple[np.ndarray, np.ndarray]:
    """A map [C, H, W] as a model takes it, and where it is valid [H, W]: classes stay as they are."""
    if normaliser is not None:
        return normaliser.forward(x)
    return x, measured_pixels(x, modality)


def cut(
    x: np.ndarray, modality: Modality, top_m: float, left_m: float, size_m: float
) -> np.ndarray:
    """The window of a map [C, H, W] that starts `top_m`, `left_m` from its corner."""
    gsd = modality.gsd_m
    assert gsd is not None
    r, c, n = round(top_m / gsd), round(left_m / gsd), round(size_m / gsd)
    return x[:, r : r + n, c : c + n]


def flip_and_turn(arrays: Iterable[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same of the 8 symmetries of the square applied to the last two axes of all arrays."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    turned = (np.rot90(a, turns, axes=(-2, -1)) for a in arrays)
    return [np.ascontiguousarray(t[..., ::-1] if flip else t) for t in turned]
