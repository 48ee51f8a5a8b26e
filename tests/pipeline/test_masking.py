"""Budgets are exact, absent streams are left out, nothing is both seen and asked for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.schema import MaskedConfig
from pipeline.data.budget import fit_budget
from tests.pipeline.masking_layouts import (
    can_still_be_asked,
    check_sound,
    count,
    layout_of,
    make,
    samples,
    stream,
    tokens,
)

LAYOUT = layout_of(
    stream("px", "pixels", 4),
    stream("a", "map", 4),
    stream("b", "map", 3),
    stream("text", "sequence", 8),
    stream("place", "set", 4),
)
ALL = np.array([s.num_positions for s in LAYOUT.streams])
ANYWHERE: list[dict[str, Any]] = [
    {"kind": "dirichlet", "alpha_input": [0.01, 1.0], "alpha_target": [0.0, 0.5]},
    {"kind": "random"},
]
ENTRIES: list[dict[str, Any]] = [
    *ANYWHERE,
    {"kind": "block", "share": 0.4, "num_blocks": 2},
    {"kind": "tube", "share": 0.7},
    {"kind": "single"},
    {"kind": "single", "of": "any"},
    {"kind": "whole", "of": "any"},
    {"kind": "whole", "num": 3},
    {"kind": "single", "of": "metadata"},
    {"kind": "nothing"},
    {"kind": "dirichlet", "modality_dropout": 0.6},
    {"kind": "tube", "modality_dropout": 0.6},
]
budgets = st.integers(1, 60)
seeds = st.integers(0, 10**6)


def draws(*entries: dict[str, Any], layout=LAYOUT, available=ALL, times: int = 400, **sizes: int):
    masking, rng = make(layout, *entries, **sizes), np.random.default_rng(0)
    return [masking(rng, available) for _ in range(times)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1e3)), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_budgets_are_exact_and_fit(streams, total):
    capacity, weights = [c for c, _ in streams], [w for _, w in streams]
    budget = fit_budget(weights, capacity, total)
    assert sum(budget) == min(total, sum(capacity))
    assert all(0 <= n <= room for n, room in zip(budget, capacity, strict=True))


def test_what_one_stream_cannot_take_the_others_get_by_their_weights():
    assert fit_budget([8, 1, 3], [10, 100, 100], 50) == [10, 10, 30]
    assert fit_budget([1, 0, 0], [10, 100, 100], 50) == [10, 20, 20]
    assert fit_budget([1e-9, 1, 0], [10, 10, 10], 2) == [0, 2, 0]
    assert fit_budget([0.0] * 49, [9] * 49, 49) == [1] * 49


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: "-".join(map(str, e.values())))
@settings(max_examples=40)
@given(sample=samples(), num_in=budgets, num_out=budgets, seed=seeds)
def test_every_strategy_is_sound_and_repeats(entry, sample, num_in, num_out, seed):
    layout, available = sample
    masking = make(layout, entry, num_in=num_in, num_out=num_out)
    first, second = (masking(np.random.default_rng(seed), available) for _ in range(2))
    check_sound(first, layout, available, num_in, num_out, sees=entry["kind"] != "nothing")
    assert first.starts == second.starts
    for a, b in ((first.inputs, second.inputs), (first.targets, second.targets)):
        assert list(a) == list(b) == sorted(a)
        assert all(np.array_equal(a[i], b[i]) for i in a)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: "-".join(map(str, e.values())))
@settings(max_examples=40)
@given(sample=samples(), num_in=budgets, num_out=budgets, seed=seeds)
def test_a_target_budget_is_full_or_nothing_is_left(entry, sample, num_in, num_out, seed):
    layout, available = sample
    masking = make(layout, entry, num_in=num_in, num_out=num_out)
    chosen = masking(np.random.default_rng(seed), available)
    hides = entry["kind"] in ("block", "tube")
    for i, s in enumerate(layout.streams):
        hidden = hides and s.grid and s.grid[0] > 1
        # May have been drawn to be read, and then have got no token of the budget.
        read = s.kind == "sequence" and s.is_input and not s.num_sentinels
        if count(chosen.targets) < num_out and not hidden and not read:
            assert can_still_be_asked(chosen, layout, available, i) == 0


@pytest.mark.parametrize("entry", ANYWHERE, ids=lambda e: e["kind"])
@settings(max_examples=40)
@given(sample=samples(), num_in=budgets, num_out=budgets, seed=seeds)
def test_an_input_budget_is_full_or_nothing_is_left(entry, sample, num_in, num_out, seed):
    layout, available = sample
    masking = make(layout, entry, num_in=num_in, num_out=num_out)
    chosen = masking(np.random.default_rng(seed), available)
    if count(chosen.inputs) == num_in:
        return
    kept_back = 0
    for i, s in enumerate(layout.streams):
        seen = len(chosen.inputs.get(i, ()))
        if s.is_input and not s.is_target:
            assert seen == available[i]
        elif s.is_input and s.kind == "sequence":
            assert s.num_sentinels or seen in (0, available[i])
        elif s.is_input:
            kept_back += available[i] - seen
    shared = sum(
        int(available[i])
        for i, s in enumerate(layout.streams)
        if s.is_input and s.is_target and s.kind != "sequence"
    )
    other_targets = any(
        available[i] and (s.kind == "sequence" or not s.is_input)
        for i, s in enumerate(layout.streams)
        if s.is_target
    )
    if not other_targets and shared:
        # Few tokens are divided as the budgets are.
        assert kept_back == max(1, shared * num_out // (num_in + num_out))


def test_shares_follow_the_dirichlet():
    layout = layout_of(*(stream(name, "map", 32, "input") for name in "abcd"))
    available = np.full(4, 1024)
    entry = {"kind": "dirichlet", "alpha_input": [2.0]}
    found = draws(entry, layout=layout, available=available, times=3000, num_in=1000)
    shares = np.array([[len(c.inputs.get(i, ())) for i in range(4)] for c in found]) / 1000
    # Symmetric Dirichlet with K = 4, alpha = 2: mean 1/K, variance (1/K)(1 - 1/K) / (K alpha + 1).
    np.testing.assert_allclose(shares.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(shares.var(0), 0.25 * 0.75 / 9, rtol=0.1)


def test_alphas_by_modality_favour_it_and_go_to_the_others_where_it_is_absent():
    entry = {"kind": "dirichlet", "alpha_input": [0.0], "alpha_input_by": {"px@px": 1000.0}}
    assert all(set(c.inputs) == {0} for c in draws(entry, times=50))
    without = ALL * [0, 1, 1, 1, 1]
    assert all(count(c.inputs) == 8 for c in draws(entry, available=without, times=50))
    entry = {"kind": "dirichlet", "alpha_target_by": {"text": 50.0}}
    chosen = [c.targets for c in draws(entry) if 3 in c.targets]
    assert np.mean([len(t[3]) / count(t) for t in chosen]) > 0.9


def test_vanishing_alphas_choose_a_stream_with_chances_in_their_proportion():
    entry = {"kind": "dirichlet", "alpha_input": [1e-5], "alpha_input_by": {"a": 3e-5}}
    found = draws(entry, available=ALL * [1, 1, 0, 0, 0], times=1000, num_in=4)
    assert all(len(c.inputs) == 1 for c in found)
    assert 690 < sum(1 in c.inputs for c in found) < 810


def test_random_takes_tokens_in_proportion_to_their_number():
    found = draws({"kind": "random"}, available=ALL * [1, 1, 1, 0, 1], times=2000, num_in=9)
    counts = [np.mean([len(c.inputs.get(i, ())) for c in found]) for i in (0, 1, 2, 4)]
    np.testing.assert_allclose(counts, 9 * np.array([16, 16, 9, 4]) / 45, rtol=0.05)


@pytest.mark.parametrize("entry", ANYWHERE, ids=lambda e: e["kind"])
def test_every_place_of_a_map_is_as_likely_as_the_others(entry):
    found = draws(entry, available=ALL * [0, 1, 0, 0, 0], times=4000, num_in=4, num_out=4)
    for side in ("inputs", "targets"):
        chosen = np.concatenate([getattr(c, side)[1] for c in found])
        np.testing.assert_allclose(np.bincount(chosen, minlength=16) / 4000, 0.25, atol=0.04)


def test_single_shows_one_stream_alone_pixels_where_there_are_any():
    assert all(set(c.inputs) == {0} for c in draws({"kind": "single"}, times=50))
    seen = [set(c.inputs) for c in draws({"kind": "single", "of": "any"}, num_in=40)]
    assert all(len(s) == 1 for s in seen)
    assert {next(iter(s)) for s in seen} == {0, 1, 2, 3, 4}
    without = [set(c.inputs) for c in draws({"kind": "single"}, available=ALL * [0, 1, 1, 1, 1])]
    assert {next(iter(s)) for s in without} == {1, 2, 3, 4}
    assert all(set(c.inputs) == {4} for c in draws({"kind": "single", "of": "metadata"}, times=50))
    entry = {"kind": "single", "of": ["place", "b@tok"]}
    assert {next(iter(c.inputs)) for c in draws(entry)} == {2, 4}
    without = [set(c.inputs) for c in draws(entry, available=ALL * [1, 1, 0, 1, 0])]
    assert {next(iter(s)) for s in without} == {0, 1, 3}


@pytest.mark.parametrize(("kind", "size"), [("set", 1), ("sequence", 6)])
def test_the_only_target_is_asked_for_and_another_modality_is_seen_in_its_place(kind, size):
    layout = layout_of(stream("x", "pixels", 2), stream("only", kind, size))
    for of in ("any", ["only"]):
        entry = {"kind": "single", "of": of}
        for chosen in draws(entry, layout=layout, available=np.array([4, size]), times=50):
            assert (set(chosen.inputs), set(chosen.targets)) == ({0}, {1})


def test_whole_shows_some_modalities_each_in_one_form_and_all_of_it():
    layout = layout_of(
        stream("x", "pixels", 4), stream("x", "map", 4), stream("y", "map", 3),
        stream("z", "map", 3, "target"),
    )  # fmt: skip
    available = np.array([16, 16, 9, 9])
    entry = {"kind": "whole", "of": "any"}
    found = [c.inputs for c in draws(entry, layout=layout, available=available, num_in=25)]
    assert {frozenset(i) for i in found} == {frozenset({0, 2}), frozenset({1, 2})}
    assert all(len(i[2]) == 9 for i in found)
    assert all(len(places) == 16 for i in found for n, places in i.items() if n != 2)
    # What is too much for the budget is shared out in proportion.
    short = draws(entry, layout=layout, available=available, num_in=10, times=50)
    assert all(sorted(len(p) for p in c.inputs.values()) == [4, 6] for c in short)
    # One that is alone is seen alone.
    alone = draws(entry, layout=layout, available=np.array([0, 0, 9, 9]), num_in=25, times=50)
    assert all(set(c.inputs) == {2} for c in alone)
    first = draws({**entry, "of": ["place"], "num": 3}, available=ALL * [1, 1, 1, 0, 1], num_in=40)
    assert all(4 in c.inputs and len(c.inputs) == 3 for c in first)


def test_nothing_shows_nothing_and_asks_for_all_it_may():
    for chosen in draws({"kind": "nothing"}, times=50, num_out=40):
        assert not chosen.inputs
        assert count(chosen.targets) == 37
    with pytest.raises(ValidationError, match="num_registers"):
        MaskedConfig.model_validate(
            {"tokens": ["a"], "targets": ["a"], "masking": [{"kind": "nothing"}]}
        )


def test_dropout_drops_modalities_in_all_their_forms_but_never_the_last():
    layout = layout_of(stream("x", "pixels", 6), stream("x", "map", 6), stream("y", "map", 6))
    entry = {"kind": "random", "modality_dropout": 0.5}
    available = np.array([36, 36, 36])
    found = draws(entry, layout=layout, available=available, num_in=60)
    seen = [frozenset(c.inputs) for c in found]
    shares = {s: seen.count(s) / 400 for s in set(seen)}
    # Of two modalities: both with 1/4, else one of them alone.
    assert shares.keys() == {frozenset({0, 1, 2}), frozenset({0, 1}), frozenset({2})}
    assert shares[frozenset({0, 1, 2})] == pytest.approx(0.25, abs=0.07)
    assert shares[frozenset({2})] == pytest.approx(0.375, abs=0.07)


def test_a_mixture_draws_its_strategies_by_weight():
    # Eight tokens in Dirichlet shares of alpha 1000 come from every stream.
    entries = (
        {"kind": "dirichlet", "weight": 3.0, "alpha_input": [1000.0]},
        {"kind": "single", "weight": 1.0},
    )
    alone = sum(set(c.inputs) == {0} for c in draws(*entries, times=2000))
    assert alone / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_sequence_is_read_or_written_from_its_beginning():
    found = draws(available=ALL, times=300, num_in=60, num_out=60)
    roles = [(len(c.inputs.get(3, ())), len(c.targets.get(3, ()))) for c in found]
    assert set(roles) == {(8, 0), (0, 8)}
    assert 110 < roles.count((8, 0)) < 190


def test_alone_a_text_is_written_and_of_two_one_is_read():
    layout = layout_of(stream("t", "sequence", 8), stream("u", "sequence", 6))
    for c in draws(layout=layout, available=np.array([8, 0]), times=20):
        assert (set(c.inputs), set(c.targets)) == (set(), {0})
    for c in draws(layout=layout, available=np.array([8, 6]), times=20):
        assert (len(c.inputs), len(c.targets)) == (1, 1)


def test_unknown_names_and_kinds_are_told():
    with pytest.raises(ValidationError, match="alpha_target_by names px@px, which is no target"):
        make(LAYOUT, {"kind": "dirichlet", "alpha_target_by": {"px@px": 1.0}})
    with pytest.raises(
        ValidationError, match="of single names places, which is no input; inputs are a"
    ):
        make(LAYOUT, {"kind": "single", "of": ["place", "places"]})
    with pytest.raises(ValidationError, match="at least one strategy"):
        MaskedConfig.model_validate({"tokens": ["a"], "targets": ["a"], "masking": []})


def test_the_reference_counts_what_is_left():
    # On a case counted by hand: b and d of "abcde" were taken out.
    layout = layout_of(stream("t", "sequence", 5, span=True))
    chosen = draws(layout=layout, available=np.array([5]), times=1)[0]
    chosen = type(chosen)({0: np.array([0, -1, 2, -2, 4])}, {0: np.array([1, -2])}, {0: 0})
    assert tokens(chosen.inputs[0]) == [0, 2, 4]
    assert can_still_be_asked(chosen, layout, np.array([5]), 0) == 2  # d and the last sentinel
