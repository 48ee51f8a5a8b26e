"""A fixed pseudo-random function of integers, array at a time: the seed of every order kept on disk."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): uint64 -> uint64, a bijection.

    Every bit of the input moves about half the bits of the output.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def mix_with(values: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-random uint64 per integer, another bijection for every seed: any integers [N] -> [N]."""
    with np.errstate(over="ignore"):
        key = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + GOLDEN)
        return mix(values.astype(np.uint64) ^ key)
