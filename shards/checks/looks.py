"""What an image looks like in 64 bits: near-duplicates differ in few of them.

The grey image (the mean over the bands) is averaged to 8 x 8 cells; a bit says whether its cell is
brighter than their median (the "average hash" of image search, with the median for the mean: half of
the bits are set whatever the light).
"""

import warnings

import numpy as np

from configs.schema.modality import Modality
from shards.stats import valid_pixels

NO_LOOK = 0
"""For images that are too small, flat, or mostly without measurement; no other image has it."""

_SIDE = 8
_FLAT = 0.01
_CLOSE_BITS = 2
# Two images that differ in at most two bits agree in at least one of three runs of bits.
RUNS = ((0, 22), (22, 21), (43, 21))


def image_for_looks(names: list[str]) -> str | None:
    """The image modality that samples are compared by: optical first; None when there is none."""
    preferred = [name for name in ("S2L2A", "S2L1C") if name in names]
    return (preferred or names or [None])[0]


def look_of(array: np.ndarray, row: Modality) -> int:
    """64 bits of an image (C, H, W), or NO_LOOK."""
    height, width = (side // _SIDE for side in array.shape[1:])
    if not height or not width:
        return NO_LOOK
    array = array[:, : height * _SIDE, : width * _SIDE]
    valid = valid_pixels(array, row).all(0)
    if valid.mean() < 0.5:
        return NO_LOOK
    grey = array.mean(0, dtype=np.float32)
    if not valid.all():
        grey[~valid] = np.nan
    with warnings.catch_warnings():
        # A cell without a valid pixel has no mean; it takes the median's side below.
        warnings.simplefilter("ignore", RuntimeWarning)
        cells = np.nanmean(grey.reshape(_SIDE, height, _SIDE, width), axis=(1, 3)).ravel()
    middle = float(np.nanmedian(cells))
    if np.nanmax(cells) - np.nanmin(cells) <= _FLAT * abs(middle):
        return NO_LOOK
    return int.from_bytes(np.packbits(cells > middle).tobytes(), "big")


def run_of(looks: np.ndarray, run: tuple[int, int]) -> np.ndarray:
    """One run of bits of every look: uint64 [N]."""
    start, length = run
    return looks >> np.uint64(start) & np.uint64((1 << length) - 1)


def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which pairs of looks differ in at most two bits: bool [N]."""
    return np.bitwise_count(a ^ b) <= _CLOSE_BITS
