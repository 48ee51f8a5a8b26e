"""Budgets are exact, absent streams are left out, nothing is both seen and asked for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import MaskedConfig
from pipeline.data.views import Views
from pipeline.stage2.layout import Layout, Stream
from pipeline.stage2.masking import draw_budget, select


def stream(name: str, kind: str, n: int, *, target: bool = True) -> Stream:
    return Stream(name, name, kind, n, is_input=True, is_target=target, vocab_size=10)  # type: ignore


LAYOUT = Layout(
    (
        stream("px", "pixels", 16, target=False),
        stream("a", "map", 16),
        stream("b", "map", 9),
        stream("text", "sequence", 8),
        stream("place", "set", 4),
    ),
    window_m=640,
    views=Views(),
)
capacities = st.lists(st.integers(0, 30), min_size=1, max_size=8).map(np.array)


@given(capacities, st.integers(0, 100), st.sampled_from([1e-4, 0.2, 1.0, 50.0]), st.integers(0, 99))
def test_budgets_are_exact_and_fit(capacity, total, alpha, seed):
    budget = draw_budget(np.random.default_rng(seed), capacity, total, alpha)
    assert budget.sum() == min(total, capacity.sum())
    assert (budget <= capacity).all()
    assert (budget >= 0).all()


def test_budget_shares_follow_the_dirichlet():
    rng = np.random.default_rng(0)
    capacity = np.full(4, 1000)
    draws = np.array([draw_budget(rng, capacity, 1000, 2.0) for _ in range(3000)]) / 1000
    # Symmetric Dirichlet with K = 4, alpha = 2: mean 1/K, variance (1/K)(1 - 1/K) / (K alpha + 1).
    np.testing.assert_allclose(draws.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 0.25 * 0.75 / 9, rtol=0.1)


@given(
    st.tuples(*(st.sampled_from([0, s.num_positions]) for s in LAYOUT.streams)).map(np.array),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 10**6),
)
def test_selection_of_any_subset_of_streams(available, num_inputs, num_targets, seed):
    config = MaskedConfig(
        tokens=("a",), targets=("a",), num_input_tokens=num_inputs, num_target_tokens=num_targets
    )
    chosen = select(np.random.default_rng(seed), LAYOUT, available, config)
    assert sum(map(len, chosen.inputs.values())) <= num_inputs
    assert sum(map(len, chosen.targets.values())) <= num_targets
    for i in range(len(LAYOUT.streams)):
        seen = chosen.inputs.get(i, np.array([], dtype=int))
        asked = chosen.targets.get(i, np.array([], dtype=int))
        assert not set(seen) & set(asked)
        if available[i] == 0:
            assert len(seen) == len(asked) == 0
        assert all(0 <= p < available[i] for p in (*seen, *asked))
    assert 0 not in chosen.targets  # pixels are never targets
    if 3 in chosen.targets:
        assert 3 not in chosen.inputs
        assert chosen.targets[3].tolist() == list(range(len(chosen.targets[3])))
    if available[[0, 1, 2, 4]].sum() >= num_inputs:
        assert sum(map(len, chosen.inputs.values())) == num_inputs


def test_the_same_generator_gives_the_same_selection():
    config = MaskedConfig(tokens=("a",), targets=("a",))
    available = np.array([s.num_positions for s in LAYOUT.streams])
    first, second = (select(np.random.default_rng(4), LAYOUT, available, config) for _ in range(2))
    assert all((first.inputs[i] == second.inputs[i]).all() for i in first.inputs)
    assert first.targets.keys() == second.targets.keys()


def test_a_share_of_the_samples_shows_one_pixel_stream_alone():
    config = MaskedConfig(tokens=("a",), targets=("a",), single_input_share=0.5)
    available = np.array([s.num_positions for s in LAYOUT.streams])
    rng = np.random.default_rng(0)
    alone = sum(set(select(rng, LAYOUT, available, config).inputs) == {0} for _ in range(400))
    assert 160 < alone < 260
    without = available.copy()
    without[0] = 0
    assert all(0 not in select(rng, LAYOUT, without, config).inputs for _ in range(50))
