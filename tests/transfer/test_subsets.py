"""Few labels: nested, stratified, drawn by the seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.transfer.subsets import fraction, shots

STRATA = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(np.array)


@given(STRATA, st.integers(0, 99), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_smaller_share_lies_in_a_larger_one(strata, seed, a, b):
    small, large = fraction(strata, min(a, b), seed), fraction(strata, max(a, b), seed)
    assert set(small) <= set(large)
    assert len(small) == max(1, round(min(a, b) * len(strata)))
    assert len(set(small)) == len(small)


@given(STRATA, st.integers(0, 99), st.floats(0.05, 1))
def test_strata_keep_their_shares(strata, seed, share):
    chosen = strata[fraction(strata, share, seed)]
    for value in np.unique(strata):
        wanted = len(chosen) * np.mean(strata == value)
        assert abs(np.sum(chosen == value) - wanted) <= len(np.unique(strata))


@given(STRATA, st.integers(0, 99), st.integers(1, 9))
def test_shots_are_so_many_of_each_class(strata, seed, count):
    chosen = shots(strata, count, seed)
    for value, size in zip(*np.unique(strata, return_counts=True), strict=True):
        assert np.sum(strata[chosen] == value) == min(count, size)
    assert set(chosen) <= set(shots(strata, count + 1, seed))


def test_another_seed_draws_others():
    strata = np.zeros(100, dtype=int)
    assert not np.array_equal(fraction(strata, 0.1, 0), fraction(strata, 0.1, 1))
