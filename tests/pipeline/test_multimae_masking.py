"""What is seen of a sample: exact budgets whatever is there, fair shares, nothing without a pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.multimae.samples import Masking, usable_patches
from tests.pipeline.multimae_twin import config, table, window

TABLE = table()
SIZES = [g.num_places for g in TABLE.groups]


@given(
    st.lists(st.sets(st.integers(0, 15), max_size=16), min_size=5, max_size=5),
    st.integers(1, 40),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.integers(0, 2**32),
)
def test_as_many_as_asked_for_are_seen_and_at_most_half(places, num_visible, alpha, seed) -> None:
    usable = [
        np.array(sorted(p for p in some if p < size), np.int64)
        for some, size in zip(places, SIZES, strict=True)
    ]
    masking = Masking(config(num_visible=num_visible, alpha=alpha), TABLE)
    seen = masking(np.random.default_rng(seed), usable)
    total = sum(map(len, usable))
    assert len(seen) == (min(num_visible, max(1, total // 2)) if total else 0)
    assert np.all(np.diff(seen) > 0)
    there = np.concatenate([g.offset + u for g, u in zip(TABLE.groups, usable, strict=True)])
    assert np.isin(seen, there).all()
    assert np.array_equal(seen, masking(np.random.default_rng(seed), usable))


def test_shares_are_a_dirichlet_draw() -> None:
    """With alpha 1 all shares are alike on average, small alphas show few groups, and alpha 0 none."""
    usable = [np.arange(n) for n in SIZES]

    def shares(**changes) -> np.ndarray:
        masking = Masking(config(num_visible=4, **changes), TABLE)
        drawn = [masking(np.random.default_rng(i), usable) for i in range(2000)]
        starts = [g.offset for g in TABLE.groups]
        return np.stack(
            [np.bincount(np.searchsorted(starts, d, "right") - 1, minlength=5) for d in drawn]
        )

    even = shares(alpha=1.0)
    np.testing.assert_allclose(even.mean(0), 0.8, atol=0.08)
    assert (shares(alpha=0.01) > 0).sum(1).mean() < 1.2 < (even > 0).sum(1).mean()
    assert not shares(alpha_by={"rgb": 0.0})[:, 0].any()


def test_a_patch_without_a_valid_pixel_is_never_seen() -> None:
    pixels = window(np.random.default_rng(0), ("S2L2A", "WorldCover"))
    pixels.valid["S2L2A"][:4, 4:8] = False
    pixels.valid["S2L2A"][8, 8] = False
    # Of class maps the pixels that are kept decide: odd ones, with a stride of 2.
    pixels.valid["WorldCover"][1:4:2, 1:4:2] = False
    rgb, swir, radar, elevation, cover = usable_patches(TABLE, pixels.valid)
    assert rgb.tolist() == swir.tolist() == [0, *range(2, 16)]
    assert len(radar) == len(elevation) == 0
    assert cover.tolist() == list(range(1, 16))
