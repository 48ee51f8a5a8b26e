"""Seeded streams, correlated random fields, and the resampling of coarse bands.

- One counter-based stream (Philox) per (seed, purpose, index): what one purpose draws never moves
  what another one draws, and any sample can be made first.
- Fields are made by spectral synthesis on a grid half as large again as the tile, because the
  Fourier grid is periodic and a tile's opposite edges must not match.
"""

import functools
from enum import IntEnum

import numpy as np

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream is for. Numbers are for ever: changing one changes every sample."""

    PLACE = 0
    TERRAIN = 1
    COVER = 2
    OPTICS = 3
    CLOUDS = 4
    LANDSAT = 5
    S1GRD = 6
    S1RTC = 7
    WORDS = 8
    MISSING = 9
    EDGES = 10
    RADAR = 11
    CHANGE = 12
    SEASONS = 13


def stream(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """The stream of one purpose for one sample; streams of different keys are independent."""
    key = ((seed & _MASK) << 64) | (int(purpose) << 56) | index
    return np.random.Generator(np.random.Philox(key=key))


def padded_px(tile_px: int) -> int:
    """The smallest even size with factors 2, 3 and 5 only that is at least 1.5 tiles."""
    size = tile_px + (tile_px + 1) // 2
    while size % 2 or not _is_smooth(size):
        size += 1
    return size


def correlated_fields(
    rng: np.random.Generator, size: int, spectra: tuple[tuple[float, float], ...]
) -> np.ndarray:
    """Gaussian fields of unit variance, (K, size, size) float32, periodic.

    Each of the K `spectra` is (length_px, slope): amplitude falls as frequency ** -slope above
    1 / length_px and is flat below it.
    """
    white = rng.standard_normal((len(spectra), size, size // 2 + 1, 2), dtype=np.float32)
    shaped = white.view(np.complex64)[..., 0] * _filters(size, spectra)
    return np.fft.irfft2(shaped, s=(size, size))


@functools.lru_cache(maxsize=32)
def _filters(size: int, spectra: tuple[tuple[float, float], ...]) -> np.ndarray:
    rows = np.fft.fftfreq(size)[:, None]
    columns = np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(rows, columns)
    # irfft2 counts every inner column twice and drops the imaginary part of the outer two
    weight = np.full(size // 2 + 1, 4.0)
    weight[[0, -1]] = 1.0
    filters = []
    for length_px, slope in spectra:
        amplitude = (1 + (frequency * length_px) ** 2) ** (-slope / 2)
        filters.append(amplitude * size**2 / np.sqrt((amplitude**2 * weight).sum()))
    return np.stack(filters).astype(np.float32)


def coarsened(values: np.ndarray, factor: int) -> np.ndarray:
    """Block means over factor x factor pixels, brought back bilinearly: (C, H, H) -> (C, H, H).

    Where blocks do not fill the tile its last row and column are repeated.
    """
    tile_px = values.shape[-1]
    gap = -tile_px % factor
    means = block_mean(np.pad(values, ((0, 0), (0, gap), (0, gap)), mode="edge"), factor)
    left, right, share = _bilinear(tile_px, factor)
    rows = means[:, left] * (1 - share[:, None]) + means[:, right] * share[:, None]
    return rows[:, :, left] * (1 - share) + rows[:, :, right] * share


@functools.lru_cache(maxsize=16)
def _bilinear(tile_px: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = -(-tile_px // factor)
    position = np.clip((np.arange(tile_px) + 0.5) / factor - 0.5, 0, blocks - 1)
    left = position.astype(np.intp)
    return left, np.minimum(left + 1, blocks - 1), (position - left).astype(np.float32)


def mixture(fractions: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    """Linear mixing: fractions (E, H, W) and signatures (E, C) -> (C, H, W).

    A loop over the few materials that occur, not a matrix product: BLAS would start threads in
    every builder process, and its rounding depends on how many.
    """
    mixed = np.zeros((signatures.shape[1], *fractions.shape[1:]), np.float32)
    for share, signature in zip(fractions, signatures, strict=True):
        if share.any():
            mixed += signature[:, None, None] * share
    return mixed


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    """Area means over factor x factor pixels: (..., H, W) -> (..., H / factor, W / factor)."""
    # sums of slices: several times faster than a mean over two axes of a reshaped view
    rows = values[..., ::factor, :].copy()
    for i in range(1, factor):
        rows += values[..., i::factor, :]
    blocks = rows[..., ::factor].copy()
    for i in range(1, factor):
        blocks += rows[..., i::factor]
    return blocks / np.float32(factor**2)


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1
