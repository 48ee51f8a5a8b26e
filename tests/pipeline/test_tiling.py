"""Windows over a scene, and their blend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.transforms import GRID_M
from pipeline.generate.tiling import Blend, Tiling, ramp

WINDOW_M = 480.0


@given(st.integers(480, 9000), st.integers(480, 5000), st.floats(0, 0.75))
def test_windows_cover_a_scene_and_overlap_as_asked(height, width, overlap):
    tiling = Tiling.over(height, width, WINDOW_M, overlap)
    for starts, extent in ((tiling.tops, height), (tiling.lefts, width)):
        assert starts[0] == 0
        assert all(s % GRID_M == 0 for s in starts)
        assert extent <= starts[-1] + WINDOW_M < extent + GRID_M
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(GRID_M, WINDOW_M * (1 - overlap))).all()


def test_a_scene_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match="smaller than a window"):
        Tiling.over(470, 900, WINDOW_M, 0.25)


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
