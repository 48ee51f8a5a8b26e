"""Windows cut the same ground at any resolution; nodata never counts; statistics have one source."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.registry import BandStatistics, modality
from pipeline.data.transforms import (
    GRID_M,
    Normaliser,
    cut,
    flip_and_turn,
    measured_pixels,
    window_offsets,
)


def test_normalising_is_undone_and_nodata_becomes_the_mean():
    row = modality("S2L2A")
    stats = BandStatistics(tuple(range(1000, 1012)), tuple(range(100, 112)))
    x = np.random.default_rng(0).integers(1, 9000, (12, 5, 5)).astype(np.int16)
    x[:, 0, 0] = 0
    y, valid = Normaliser(row, stats).forward(x)
    assert not valid[0, 0]
    assert valid.sum() == 24
    assert (y[:, 0, 0] == 0).all()
    back = Normaliser(row, stats).inverse(y)
    np.testing.assert_allclose(back[:, valid], x[:, valid], rtol=1e-5)


def test_nan_is_no_measurement_and_zero_decibel_is_one():
    row = modality("S1GRD")
    x = np.zeros((2, 2, 2), dtype=np.float32)
    x[1, 0, 0] = np.nan
    assert measured_pixels(x, row).tolist() == [[False, True], [True, True]]


def test_black_is_a_colour():
    assert measured_pixels(np.zeros((3, 2, 2), dtype=np.uint8), modality("S2RGB")).all()


@given(st.integers(10, 60), st.integers(5, 60), st.integers(1, 4))
def test_fixed_windows_lie_inside_and_between_pixels_of_every_grid(tile, window, per_side):
    extent, size = tile * 30.0, window * 30.0
    if size > extent:
        with pytest.raises(ValueError, match="does not fit"):
            window_offsets(extent, size, per_side)
        return
    offsets = window_offsets(extent, size, per_side)
    assert len(offsets) == per_side
    assert all(0 <= o <= extent - size and o % GRID_M == 0 for o in offsets)


def test_a_window_cuts_the_same_ground_at_10_and_30_metres():
    fine = np.arange(72 * 72).reshape(1, 72, 72)
    coarse = fine[:, 1::3, 1::3]  # the centre pixel of each 3 x 3
    a = cut(fine, modality("S2L2A"), 120, 60, 300)
    b = cut(coarse, modality("Landsat"), 120, 60, 300)
    assert a.shape == (1, 30, 30)
    np.testing.assert_array_equal(a[:, 1::3, 1::3], b)


def test_all_maps_of_a_sample_are_turned_alike_and_all_8_symmetries_occur():
    x = np.arange(9).reshape(1, 3, 3)
    seen = set()
    for seed in range(60):
        a, b = flip_and_turn((x, x[0]), np.random.default_rng(seed))
        np.testing.assert_array_equal(a[0], b)
        seen.add(a.tobytes())
    assert len(seen) == 8
