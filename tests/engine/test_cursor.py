"""Which positions of the stream are consumed when stretches of it are left out."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.cursor import cursors
from pipeline.data.order import Order
from tests.pipeline.streams import take

STEPS = 25
stretches_of = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), max_size=5)


def as_stretches(found: list[tuple[int, int]], unit: int = 1) -> list[tuple[int, int]]:
    return [(start * unit, (start + length) * unit) for start, length in found]


def slowly(start: int, batch: int, left_out: list[tuple[int, int]]) -> list[int]:
    """The same, position by position: a step begins where its whole batch is free."""
    taken = {p for first, stop in left_out for p in range(first, stop)}
    found, position = [], start
    while len(found) < STEPS:
        if taken.isdisjoint(range(position, position + batch)):
            found.append(position)
            position += batch
        elif position in taken:
            position += 1
        else:  # too little room before a stretch
            position = min(p for p in taken if p >= position)
    return found


@given(start=st.integers(0, 60), batch=st.integers(1, 12), found=stretches_of)
def test_every_step_begins_at_the_first_place_that_is_wholly_free(start, batch, found):
    left_out = as_stretches(found)
    steps = list(itertools.islice(cursors(start, batch, left_out), STEPS))
    assert steps == slowly(start, batch, left_out)


@given(steps=st.integers(0, 20), batch=st.integers(1, 12), found=stretches_of)
def test_of_whole_steps_left_out_everything_else_is_consumed(steps, batch, found):
    left_out = as_stretches(found, batch)
    starts = itertools.islice(cursors(steps * batch, batch, left_out), STEPS)
    seen = [p for start in starts for p in range(start, start + batch)]
    taken = {p for first, stop in left_out for p in range(first, stop)}
    free = (p for p in itertools.count(steps * batch) if p not in taken)
    assert seen == list(itertools.islice(free, STEPS * batch))


@given(start=st.integers(0, 60), batch=st.integers(1, 12), found=stretches_of, k=st.integers(1, 20))
def test_the_end_of_any_step_is_a_place_to_go_on_from(start, batch, found, k):
    left_out = as_stretches(found)
    steps = list(itertools.islice(cursors(start, batch, left_out), STEPS + k))
    again = itertools.islice(cursors(steps[k - 1] + batch, batch, left_out), STEPS)
    assert list(again) == steps[k : k + STEPS]


@settings(max_examples=8)
@given(
    world=st.integers(1, 3), batch=st.integers(3, 8), start=st.integers(0, 30), found=stretches_of
)
def test_loaders_of_all_ranks_follow_the_cursor(world, batch, start, found):
    left_out = as_stretches(found)
    positions = [p for s in slowly(start, batch, left_out)[:6] for p in range(s, s + batch)]
    expected = Order(range(1000), seed=1).samples(np.array(positions)).tolist()
    seen = take(Order(range(1000), seed=1), world, batch, 6, cursor=start, left_out=tuple(left_out))
    assert [sample for sample, _ in seen] == expected
