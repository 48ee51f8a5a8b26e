"""What people draw on the land: strips of fields, irrigation circles, settlements with streets."""

from dataclasses import dataclass

import numpy as np

from shards.sources.earth.terrain import Terrain


@dataclass(frozen=True)
class Parcels:
    """`label` (H, W) numbers the parcels from 0; `inside` is 1 where a parcel can be tilled."""

    label: np.ndarray
    inside: np.ndarray
    num_parcels: int

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of a map over each parcel, (num_parcels,); 0 for parcels outside the tile."""
        flat = self.label.ravel()
        count = np.bincount(flat, minlength=self.num_parcels)
        total = np.bincount(flat, weights=values.ravel(), minlength=self.num_parcels)
        return (total / np.maximum(count, 1)).astype(np.float32)


def strip_parcels(rng: np.random.Generator, wiggle: np.ndarray) -> Parcels:
    """Rows of rectangles, each row with its own length of parcel, turned and slightly bent."""
    along, across = _turned(rng, wiggle.shape[0])
    width_px = 7 + 18 * rng.random() ** 1.5
    row = ((across + 1.5 * wiggle) / width_px + 64).astype(np.int64)
    row -= row.min()
    num_rows = int(row.max()) + 1
    length_px = (width_px * (1.2 + 2.5 * rng.random(num_rows))).astype(np.float32)
    offset = rng.random(num_rows).astype(np.float32)
    column = ((along + wiggle) / length_px[row] + offset[row] + 64).astype(np.int64)
    column -= column.min()
    num_columns = int(column.max()) + 1
    return Parcels(row * num_columns + column, np.ones(row.shape, bool), num_rows * num_columns)


def pivot_parcels(rng: np.random.Generator, tile_px: int) -> Parcels:
    """Squares with a round field in each, as centre-pivot irrigation leaves them."""
    size_px = 28 + 30 * rng.random()
    y, x = np.mgrid[:tile_px, :tile_px] / size_px + rng.random((2, 1, 1))
    row, column = y.astype(np.int64), x.astype(np.int64)
    inside = np.hypot(y - row - 0.5, x - column - 0.5) < 0.47
    num_columns = int(column.max()) + 1
    return Parcels(row * num_columns + column, inside, (int(row.max()) + 1) * num_columns)


@dataclass(frozen=True)
class Settlement:
    """`built` and `street` are bool maps; `roof` is the brightness of each building, 0..1."""

    built: np.ndarray
    street: np.ndarray
    roof: np.ndarray

    @property
    def garden(self) -> np.ndarray:
        """Where no house stands, (H, W) bool."""
        return self.roof < 0.3


def make_settlement(
    rng: np.random.Generator, terrain: Terrain, human: np.ndarray, wiggle: np.ndarray, town: bool
) -> Settlement:
    """A hamlet or a town on flat ground near the valley, with a turned grid of streets."""
    tile_px = human.shape[0]
    appeal = human - 12 * terrain.slope - 0.02 * terrain.valley_distance_px - 9 * terrain.water
    row, column = divmod(int(appeal.argmax()), tile_px)
    u = rng.random(3)
    radius_px = 20 + 45 * u[0] if town else 4 + 9 * u[0]
    y, x = np.mgrid[:tile_px, :tile_px].astype(np.float32)
    reach = np.hypot(y - row, x - column) / radius_px
    built = (reach + 0.45 * wiggle + 2.5 * terrain.slope < 1) & ~terrain.water
    along, across = _turned(rng, tile_px)
    block_px = 6 + 5 * u[1]
    street = (along % block_px < 1.2) | (across % (block_px * 1.6) < 1.2)
    house = (along / 2.2).astype(np.int64) * 7919 + (across / 2.6).astype(np.int64) * 104729
    roof = ((house % 9973) * 2654435761 % 1024 / 1024).astype(np.float32)
    return Settlement(built, street, roof)


def road(rng: np.random.Generator, wiggle: np.ndarray) -> np.ndarray:
    """A road across the tile, (H, W) bool."""
    _, across = _turned(rng, wiggle.shape[0])
    return np.abs(across + 3 * wiggle - 0.4 * wiggle.shape[0] * (rng.random() - 0.5)) < 0.6


def _turned(rng: np.random.Generator, tile_px: int) -> tuple[np.ndarray, np.ndarray]:
    heading = np.pi * rng.random()
    y, x = np.mgrid[:tile_px, :tile_px].astype(np.float32) - np.float32(tile_px / 2)
    cos, sin = np.float32(np.cos(heading)), np.float32(np.sin(heading))
    return cos * x + sin * y, cos * y - sin * x
