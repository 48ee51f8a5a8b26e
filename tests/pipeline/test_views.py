"""Fixed views: windows in a grid, each in the same symmetries."""

import itertools

import numpy as np
import pytest

from configs.registry import modality
from pipeline.data.views import Views, symmetric

S2, LANDSAT = modality("S2L2A"), modality("Landsat")


def test_symmetries_are_those_of_the_square_and_the_first_is_none():
    x = np.arange(18).reshape(2, 3, 3)
    found = [symmetric(x, n) for n in range(8)]
    np.testing.assert_array_equal(found[0], x)
    turned = [np.rot90(x, k, axes=(1, 2)) for k in range(4)]
    expected = {t.tobytes() for t in turned} | {t[..., ::-1].tobytes() for t in turned}
    assert {f.tobytes() for f in found} == expected
    np.testing.assert_array_equal(found[1], x[..., ::-1])
    np.testing.assert_array_equal(found[3], np.rot90(x, 2, axes=(1, 2)))


@pytest.mark.parametrize(("per_side", "symmetries"), [*itertools.product((1, 2, 3), (1, 2, 4, 8))])
def test_each_window_comes_in_each_symmetry(per_side, symmetries):
    x = np.random.default_rng(0).integers(0, 9999, (12, 24, 24))
    views = Views(per_side, symmetries)
    shown = views.all(x, S2, 120)
    assert shown.shape == (len(views), 12, 12, 12)
    assert len({v.tobytes() for v in shown}) == len(views)
    for k in range(0, len(views), symmetries):
        window = Views(per_side).show(x, S2, 120, k // symmetries)
        for symmetry in range(symmetries):
            np.testing.assert_array_equal(shown[k + symmetry], symmetric(window, symmetry))
    if per_side % 2:
        np.testing.assert_array_equal(shown[views.centre], x[:, 6:18, 6:18])


@pytest.mark.parametrize("number", range(32))
def test_pixels_of_10_and_30_metres_show_the_same_ground(number):
    fine = np.arange(72 * 72).reshape(1, 72, 72)
    coarse = fine[:, 1::3, 1::3]  # the centre pixel of each 3 x 3
    views = Views(2, 8)
    a, b = (views.show(x, row, 360, number) for x, row in ((fine, S2), (coarse, LANDSAT)))
    np.testing.assert_array_equal(a[:, 1::3, 1::3], b)
