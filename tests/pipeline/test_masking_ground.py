"""Block and tube masking: what is hidden on the ground is hidden in every map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import ConfigError
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.block import draw_blocks
from pipeline.stage2.masking.ground import Ground
from pipeline.stage2.masking.places import RANKS
from pipeline.stage2.masking.selection import Present, Selection
from pipeline.stage2.masking.tube import draw_places
from tests.pipeline.masking_layouts import count, layout_of, make, samples, stream

HIDING = ({"kind": "block", "share": 0.4}, {"kind": "tube", "share": 0.5})
LAYOUT = layout_of(
    stream("px", "pixels", 8), stream("a", "map", 4), stream("b", "map", 2), stream("c", "set", 4)
)
ALL = np.array([64, 16, 4, 4])


def rectangle(side: int, place: int | np.integer) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of a token, as shares of the window."""
    y, x = divmod(int(place), side)
    return y / side, x / side, (y + 1) / side, (x + 1) / side


def overlaps(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    eps = 1e-9
    return all(a[k] + eps < b[k + 2] and b[k] + eps < a[k + 2] for k in (0, 1))


def on_ground(chosen: dict[int, np.ndarray], layout: Layout) -> list[tuple[float, ...]]:
    sides = {i: s.grid[0] for i, s in enumerate(layout.streams) if s.grid and s.grid[0] > 1}
    return [rectangle(sides[i], p) for i in chosen if i in sides for p in chosen[i]]


def leaks(chosen: Selection, layout: Layout) -> bool:
    """Whether an input token covers the middle of a target token."""
    seen = on_ground(chosen.inputs, layout)
    middles = [((t + b) / 2, (x + r) / 2) for t, x, b, r in on_ground(chosen.targets, layout)]
    return any(_covers(a, y, x) for a in seen for y, x in middles)


def _covers(a: tuple[float, ...], y: float, x: float) -> bool:
    return a[0] + 1e-9 < y < a[2] - 1e-9 and a[1] + 1e-9 < x < a[3] - 1e-9


@pytest.mark.parametrize("entry", HIDING, ids=lambda e: e["kind"])
@settings(max_examples=60)
@given(sample=samples(), seed=st.integers(0, 10**6))
def test_no_input_covers_the_middle_of_a_target(entry, sample, seed):
    layout, available = sample
    sides = {i: s.grid[0] for i, s in enumerate(layout.streams) if s.grid and s.grid[0] > 1}
    present = {i: side for i, side in sides.items() if available[i]}
    chosen = make(layout, entry, num_in=40, num_out=40)(np.random.default_rng(seed), available)
    coarsest = min(present.values(), default=0)
    readable = [s for i, s in present.items() if layout.streams[i].is_input]
    if coarsest in readable or all(s % coarsest == 0 for s in readable):
        assert not leaks(chosen, layout)


@pytest.mark.parametrize("entry", HIDING, ids=lambda e: e["kind"])
def test_on_nested_grids_inputs_and_targets_share_no_ground(entry):
    rng, masking = np.random.default_rng(0), make(LAYOUT, entry, num_in=30, num_out=30)
    for _ in range(100):
        chosen = masking(rng, ALL)
        seen, asked = on_ground(chosen.inputs, LAYOUT), on_ground(chosen.targets, LAYOUT)
        assert seen
        assert asked
        assert not any(overlaps(a, b) for a in seen for b in asked)


@given(
    sides=st.lists(st.integers(2, 7), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 0.99),
)
def test_visible_and_inside_against_rectangles(sides, seed, share):
    layout = layout_of(*(stream(f"m{i}", "map", side) for i, side in enumerate(sides)))
    present = Present([s * s for s in sides], [s * s for s in sides])
    ground = Ground(layout)
    side = ground.side(present)
    assert side == min(sides)
    places = draw_places(np.random.default_rng(seed), side, share)
    hidden = ground.hide(places, present)
    hidden_at = [rectangle(side, p) for p in np.flatnonzero(places)]
    for i, own in enumerate(sides):
        for token in range(own * own):
            t, x, b, r = rectangle(own, token)
            touches = any(overlaps((t, x, b, r), h) for h in hidden_at)
            middle = int((t + b) / 2 * side + 1e-9) * side + int((x + r) / 2 * side + 1e-9)
            expected = 2 if places.flat[middle] else int(touches)
            assert hidden[i].ranks[token] == RANKS[expected]
        assert hidden[i].num_visible == (hidden[i].ranks == RANKS[0]).sum()
        assert hidden[i].num_inside == (hidden[i].ranks == RANKS[2]).sum() > 0
    assert any(part.num_visible for part in hidden.values())


@pytest.mark.parametrize("entry", HIDING, ids=lambda e: e["kind"])
def test_budgets_are_what_visible_and_hidden_places_have(entry):
    entry = {**entry, "share": 0.5}
    rng, masking = np.random.default_rng(0), make(LAYOUT, entry, num_in=200, num_out=200)
    for _ in range(50):
        chosen = masking(rng, ALL)
        visible = len(chosen.inputs[0])
        assert [len(chosen.inputs[i]) * 64 / ALL[i] for i in (1, 2)] == [visible, visible]
        assert [len(chosen.targets[i]) * 64 / ALL[i] for i in (1, 2)] == [64 - visible] * 2
        # A set has no place on the ground: it is divided as the budgets are.
        assert len(chosen.inputs[3]) + len(chosen.targets.get(3, ())) == 4


@given(st.integers(0, 10**6), st.integers(2, 20), st.floats(0.01, 0.99), st.integers(1, 4))
def test_blocks_are_some_rectangles_and_never_all(seed, side, share, num_blocks):
    hidden = draw_blocks(np.random.default_rng(seed), side, share, num_blocks)
    assert 0 < hidden.sum() < hidden.size
    if num_blocks == 1:
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) * len(columns) == hidden.sum()


def test_a_block_has_its_share_of_the_ground_and_may_be_anywhere():
    rng = np.random.default_rng(0)
    blocks = np.array([draw_blocks(rng, 14, 0.3) for _ in range(2000)])
    assert blocks.mean() == pytest.approx(0.3, abs=0.01)
    assert blocks.any(0).all()
    sides = [sorted((b.any(1).sum(), b.any(0).sum())) for b in blocks]
    assert max(long / short for short, long in sides) <= 2.5


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_tubes_hide_exactly_their_share(share):
    hidden = draw_places(np.random.default_rng(0), 6, share)
    assert hidden.sum() == min(max(round(36 * share), 1), 35)


def test_a_sample_without_maps_is_drawn_like_any_other():
    layout = layout_of(stream("a", "map", 4), stream("c", "set", 6), stream("t", "sequence", 5))
    for entry in HIDING:
        chosen = make(layout, entry)(np.random.default_rng(0), np.array([0, 6, 5]))
        assert count(chosen.targets)


def test_hiding_places_needs_a_map_that_has_some():
    layout = layout_of(stream("a", "map", 1), stream("c", "set", 6))
    with pytest.raises(ConfigError, match="take them out"):
        make(layout, HIDING[0])
