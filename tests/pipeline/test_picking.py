"""Rounds, and how a token is drawn from logits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generate.picking import Sampling, known_after, pick


@given(st.integers(1, 300), st.integers(1, 400), st.sampled_from(["cosine", "linear"]))
def test_every_round_adds_something_and_the_last_knows_all(total, steps, shape):
    counts = known_after(total, steps, shape)
    assert len(counts) == min(steps, total)
    assert counts[-1] == total
    assert all(a < b for a, b in zip([0, *counts], counts, strict=False))


def test_the_cosine_starts_with_few_and_ends_with_many():
    # 1 - cos(pi/2 * r/4) of 100.
    assert known_after(100, 4, "cosine") == [8, 29, 62, 100]
    assert known_after(100, 4, "linear") == [25, 50, 75, 100]


def how(**changes):
    return Sampling(**({"steps": 1, "temperature": 1.0, "seed": 0} | changes))


def drawn(logits, count=4000, **changes):
    rows = torch.tensor(logits).expand(count, -1)
    codes, certainty = pick(rows, how(**changes), np.random.default_rng(0))
    return np.bincount(codes, minlength=len(logits)) / count, codes, certainty


def test_codes_come_as_often_as_they_are_likely():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    shares, codes, certainty = drawn(np.log(p).tolist())
    np.testing.assert_allclose(shares, p, atol=0.03)
    np.testing.assert_allclose(certainty, p[codes], rtol=1e-6)


def test_temperature_sharpens_and_zero_takes_the_most_likely():
    p = np.array([0.5, 0.3, 0.2])
    shares, _, _ = drawn(np.log(p).tolist(), temperature=0.5)
    np.testing.assert_allclose(shares, p**2 / (p**2).sum(), atol=0.03)
    assert drawn([1.0, 3.0, 2.0], temperature=0.0)[0][1] == 1


def test_top_k_keeps_k_and_top_p_the_fewest_that_reach_p():
    p = np.array([0.4, 0.1, 0.3, 0.2])
    shares, _, certainty = drawn(np.log(p).tolist(), top_k=2)
    np.testing.assert_allclose(shares, [4 / 7, 0, 3 / 7, 0], atol=0.03)
    # How sure the model was does not depend on what was left out.
    assert certainty.max() == pytest.approx(0.4)
    shares, _, _ = drawn(np.log(p).tolist(), top_p=0.75)
    np.testing.assert_allclose(shares, [4 / 9, 0, 3 / 9, 2 / 9], atol=0.03)
    assert drawn(np.log(p).tolist(), top_p=0.01)[0][0] == 1


def test_a_code_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(500, -1)
    codes, _ = pick(logits, how(), np.random.default_rng(1))
    assert set(codes) == {1}
