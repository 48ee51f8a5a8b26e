"""Windows over a scene, and their blend."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.transforms import GRID_M
from pipeline.generate.tiling import Blend, Tiling, ramp

WINDOW_M = 480.0
PIXELS = st.lists(st.sampled_from([0.05, 0.2, 0.3, 0.7, 1.0, 1.5, 10.0, 20.0]), min_size=1)


@given(st.integers(480, 9000), st.integers(480, 5000), st.floats(0, 0.75))
def test_windows_cover_a_scene_and_overlap_as_asked(height, width, overlap):
    tiling = Tiling.over(height, width, WINDOW_M, overlap, [10.0, 60.0])
    for starts, extent in ((tiling.tops, height), (tiling.lefts, width)):
        assert starts[0] == 0
        assert all(s % GRID_M == 0 for s in starts)
        assert extent <= starts[-1] + WINDOW_M < extent + GRID_M
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(GRID_M, WINDOW_M * (1 - overlap))).all()


@given(PIXELS, st.integers(2, 60), st.integers(0, 9), st.sampled_from([0, 0.1, 0.25, 0.5, 0.75]))
def test_windows_of_any_ground_leave_no_gap_on_whole_pixels(pixels, size, room, overlap):
    """A window is some pixels of the coarsest map; a scene is whole pixels of each."""
    common = math.lcm(*(round(100 * side) for side in pixels)) / 100
    window_m = size * max(pixels)
    extent_m = common * (math.ceil(window_m / common) + room)
    starts = Tiling.over(extent_m, window_m, window_m, overlap, pixels).tops
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    for side in pixels:
        places = np.array([round(s / side) for s in starts])
        num, whole = round(window_m / side), round(extent_m / side)
        assert (np.diff(places) <= num).all()
        assert places[-1] + num >= whole
    if common <= window_m:
        assert all(math.isclose(s, round(s / common) * common, abs_tol=1e-6) for s in starts)
        assert (np.diff(starts) <= max(common, window_m * (1 - overlap)) + 1e-6).all()


@pytest.mark.parametrize(
    ("window_m", "pixels", "steps"),
    [
        (51.2, [0.2], 38.4),
        (64.0, [10.0], 40.0),
        (79.0, [1.0], 59.0),
        (80.0, [10.0], 60.0),
        (80.0, [0.31, 10.0], 60.0),
        (40.0, [0.3, 20.0], 20.0),
    ],
)
def test_small_windows_overlap_as_asked(window_m, pixels, steps):
    found = Tiling.over(window_m, 20 * window_m, window_m, 0.25, pixels).lefts
    assert np.diff(found)[:-1] == pytest.approx(steps)


@given(st.integers(8, 200), st.integers(0, 300), st.floats(0, 0.75))
def test_where_the_grid_of_60_m_does_windows_lie_as_ever(window, room, overlap):
    """As maps were made by earlier versions: the same windows, to the bit."""
    window_m, extent_m = 10.0 * window, 10.0 * (window + room)
    step = int(window_m * (1 - overlap) // GRID_M) * GRID_M
    if step:
        last = -int(-(extent_m - window_m) // GRID_M) * GRID_M
        found = Tiling.over(extent_m, window_m, window_m, overlap, [10.0, 20.0]).tops
        assert found == (*range(0, last, step), last)
        assert all(isinstance(s, int) for s in found)


def test_sizes_that_are_not_exact_make_no_window_more():
    # 256 x 0.3 m, and 1000 of them as a scene counts its metres.
    window_m = 256 * 0.3
    assert Tiling.over(256 / (10 / 0.3) * 10, window_m, window_m, 0.25, [0.3]).tops == (0,)
    found = Tiling.over(1024 / (10 / 0.3) * 10, window_m, window_m, 0.25, [0.3]).tops
    assert len(found) == 5
    assert found[-1] == pytest.approx(768 * 0.3)


def test_a_scene_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match="smaller than a window"):
        Tiling.over(470, 900, WINDOW_M, 0.25, [10.0])


def blended(scene, size, tops, lefts, overlap):
    """The scene cut into windows and put together again."""
    height, width = scene.shape[1:]
    padded = np.pad(scene, ((0, 0), (0, size), (0, size)))
    blend, out = Blend(len(scene), width, size, overlap), np.empty_like(scene)
    for number, top in enumerate(tops):
        for left in lefts:
            blend.add(padded[:, top : top + size, left : left + size], left)
        following = tops[number + 1] if number + 1 < len(tops) else height
        at, rows, covered = blend.finished(following)
        assert covered.all()
        out[:, at : at + rows.shape[1]] = rows
    return out


def test_windows_of_a_scene_put_together_are_the_scene():
    scene = np.random.default_rng(0).normal(size=(3, 23, 30)).astype(np.float32)
    found = blended(scene, 8, (0, 6, 12, 18), (0, 6, 12, 18, 24), 2)
    np.testing.assert_allclose(found, scene, rtol=1e-5, atol=1e-6)


def test_weights_fall_to_the_edges_and_blend_linearly_between_two_windows():
    assert ramp(6, 2)[2].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])
    blend = Blend(1, 10, 6, 2)
    blend.add(np.zeros((1, 6, 6), dtype=np.float32), 0)
    blend.add(np.ones((1, 6, 6), dtype=np.float32), 4)
    _, rows, _ = blend.finished(6)
    assert rows[0, 3].tolist() == pytest.approx([0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])


def test_what_no_window_covers_is_told():
    blend = Blend(1, 8, 4, 1)
    blend.add(np.full((1, 4, 4), 5, dtype=np.float32), 4)
    _, rows, covered = blend.finished(4)
    assert covered[0].tolist() == [False] * 4 + [True] * 4
    assert np.isnan(rows[0, :, :4]).all()
