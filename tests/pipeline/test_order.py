"""The order of samples: a permutation per epoch, the same stream for any world and batch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.loader import Loader, Slice
from pipeline.data.order import Order, permute


@given(n=st.integers(1, 700), key=st.integers(0, 2**63 - 1))
def test_every_epoch_visits_every_sample_once(n, key):
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


def test_places_are_computed_one_by_one_at_a_billion():
    places = np.array([0, 1, 999_999_999])
    images = permute(places, 10**9, key=7)
    assert all(0 <= i < 10**9 for i in images)
    assert permute(places[2:], 10**9, key=7)[0] == images[2]


def test_the_order_is_pinned():
    # A change here breaks the resumption of every run that exists.
    assert permute(np.arange(8), 8, key=3).tolist() == [1, 2, 0, 6, 3, 7, 4, 5]


def test_shuffling_leaves_no_trace_of_the_old_order():
    n = 5_000
    image = permute(np.arange(n), n, key=11)
    correlation = np.corrcoef(np.arange(n), image)[0, 1]
    steps = np.abs(np.diff(image)).mean() / n
    assert abs(correlation) < 0.05
    assert steps == pytest.approx(1 / 3, abs=0.03)  # mean distance of two uniform draws


@given(
    n=st.integers(1, 200),
    changes=st.lists(st.tuples(st.integers(1, 5), st.integers(5, 40)), min_size=1, max_size=6),
)
def test_changing_world_and_batch_loses_and_repeats_nothing(n, changes):
    order = Order(np.arange(n) * 10, seed=1)
    cursor, seen = 0, []
    for world, global_batch in changes:
        for rank in range(world):
            parts = Slice(global_batch, 0, rank, world).positions(cursor)
            seen += [int(p) for part in parts for p in part]
        cursor += global_batch
    assert sorted(seen) == list(range(cursor))
    samples = order.samples(np.array(sorted(seen)))
    for epoch in range(cursor // n):
        assert sorted(samples[epoch * n : (epoch + 1) * n]) == list(range(0, 10 * n, 10))


@given(global_batch=st.integers(1, 64), world=st.integers(1, 8), micro=st.integers(0, 8))
def test_ranks_have_equally_many_micro_batches_and_none_is_empty(global_batch, world, micro):
    largest = math.ceil(global_batch / world)
    num_micro = math.ceil(largest / micro) if micro else 1
    if global_batch // world < num_micro:
        with pytest.raises(ValueError, match="global_batch"):
            Slice(global_batch, micro, 0, world)
        return
    parts = [Slice(global_batch, micro, r, world).positions(0) for r in range(world)]
    assert len({len(p) for p in parts}) == 1
    assert all(len(chunk) and (micro == 0 or len(chunk) <= micro) for p in parts for chunk in p)


def test_the_generator_of_a_position_is_its_own():
    order = Order(np.arange(10), seed=5)
    assert order.rng(3).random() == order.rng(3).random()
    assert order.rng(3).random() != order.rng(4).random()


def test_an_empty_selection_is_refused():
    with pytest.raises(ValueError, match="no sample"):
        Order(np.array([], dtype=np.int64), seed=0)


def test_a_loader_that_starts_at_a_cursor_continues_the_stream():
    def take(cursor: int, steps: int) -> list[list[int]]:
        loader = Loader(
            Order(np.arange(13), seed=2),
            sample=lambda index, rng, _: (index, rng.random()),
            collate=lambda samples: samples,  # type: ignore[arg-type, return-value]
            part=Slice(4, 0, 0, 1),
            cursor=cursor,
        )
        batches = iter(loader)
        try:
            return [next(batches) for _ in range(steps)]  # type: ignore[misc]
        finally:
            loader.close()

    assert take(0, 6)[2:] == take(8, 4)


def test_an_error_while_reading_reaches_the_training_loop():
    def broken(index, rng, _):
        raise OSError("disk on fire")

    loader = Loader(Order(np.arange(3), 0), broken, lambda s: s, Slice(2, 0, 0, 1))  # type: ignore
    with pytest.raises(OSError, match="disk on fire"):
        next(iter(loader))
    loader.close()
