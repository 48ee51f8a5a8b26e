"""Regression of the truth on maps, against NumPy, and what it does to maps that are noise."""

import numpy as np
import pytest

from configs.registry import modality
from pipeline.generate.calibration import Calibration

ROW = modality("DEM")
MEAN = np.array([500.0])


def maps(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Made maps that vary between samples and within them."""
    return [
        (MEAN + rng.normal(0, 100) + rng.normal(0, 30, (1, 6, 6))).astype(np.float32)
        for _ in range(count)
    ]


def fitted(made: list[np.ndarray], truths: list[np.ndarray]) -> Calibration:
    found = Calibration(ROW, MEAN)
    for x, y in zip(made, truths, strict=True):
        found.add(x, y)
    return found


def test_a_clear_line_is_found_as_least_squares_finds_it():
    rng = np.random.default_rng(0)
    made = maps(rng, 200)
    truths = [(520 + 0.5 * (x - MEAN) + rng.normal(0, 1, x.shape)).astype(np.float32) for x in made]
    level, slope = fitted(made, truths).line
    x, y = (np.concatenate([v.ravel() for v in values]) - 500.0 for values in (made, truths))
    expected_slope, expected_level = np.polyfit(x, y, 1)
    np.testing.assert_allclose([slope[0], level[0]], [expected_slope, expected_level], rtol=1e-3)


def test_maps_that_say_nothing_become_the_mean():
    rng = np.random.default_rng(1)
    made, truths = maps(rng, 64), maps(rng, 64)
    found = fitted(made, truths)
    asked, held_out = maps(rng, 200), maps(rng, 200)
    pairs = list(zip(asked, held_out, strict=True))
    plain = np.mean([(x - y) ** 2 for x, y in pairs])
    calibrated = np.mean([(found(x) - y) ** 2 for x, y in pairs])
    guess = np.mean([(MEAN - y) ** 2 for y in held_out])
    assert calibrated < 0.6 * plain
    assert calibrated < 1.03 * guess


def test_slopes_are_those_of_shrinking_and_never_of_turning_round_or_stretching():
    made = maps(np.random.default_rng(2), 50)
    for factor, expected in ((-1.0, 0.0), (2.0, 1.0)):
        truths = [(MEAN + factor * (x - MEAN)).astype(np.float32) for x in made]
        assert fitted(made, truths).line[1][0] == expected


def test_pixels_without_a_measurement_teach_nothing():
    rng = np.random.default_rng(3)
    made = maps(rng, 40)
    truths = [(MEAN + 0.5 * (x - MEAN)).astype(np.float32) for x in made]
    holed = [y.copy() for y in truths]
    cut = [x.copy() for x in made]
    for x, y in zip(cut, holed, strict=True):
        y[:, :2] = np.nan
        x[:, :2] = 1e6
    whole = fitted([x[:, 2:] for x in made], [y[:, 2:] for y in truths])
    for found, expected in zip(fitted(cut, holed).line, whole.line, strict=True):
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_change_nothing(count: int):
    (asked,) = maps(np.random.default_rng(4), 1)
    truths = [asked * 0.5] * count
    np.testing.assert_array_equal(fitted([asked] * count, truths)(asked), asked)
