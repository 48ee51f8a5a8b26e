"""What counts as a harmful step, when the run goes back, and what it goes without afterwards."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import GuardConfig
from pipeline.engine.distributed import World
from pipeline.engine.errors import DivergedError
from pipeline.engine.guard import FILE, Guard, LeftOut, Running, Verdict
from tests.engine.team import alone, together

BATCH = 4


def make(**settings: Any) -> Guard:
    return Guard(GuardConfig.model_validate(settings))


def go(guard: Guard, *losses: float, norm: float = 1.0) -> None:
    """Healthy steps."""
    for loss in losses:
        step = guard.steps + 1
        assert guard.take(step, BATCH * step, loss, norm, True) is Verdict.GO_ON


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_a_running_mean_weighs_the_past_by_two_percent_a_step(values):
    running = Running()
    for value in values:
        running.add(value)
    weights = [0.98**age for age in reversed(range(len(values)))]
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    assert running.value == pytest.approx(mean, rel=1e-9, abs=1e-6)


def test_the_mean_of_nothing_is_zero():
    assert Running().value == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_never_trusted(loss: float):
    assert make().distrusts(loss)


def test_spikes_pass_unless_a_factor_is_given():
    guard = make(warmup_steps=0)
    go(guard, *[1.0] * 200)
    assert not guard.distrusts(1e9)
    assert guard.max_norm == 0


def test_spikes_are_judged_behind_the_warm_up_only():
    guard = make(spike_factor=3, warmup_steps=10)
    go(guard, *[2.0] * 9, norm=5.0)
    assert not guard.distrusts(1e9)
    assert guard.max_norm == 0
    go(guard, 2.0, norm=5.0)
    assert guard.distrusts(6.01)
    assert not guard.distrusts(5.99)
    assert guard.max_norm == pytest.approx(15)


def test_a_skipped_step_does_not_move_the_means():
    guard = make(spike_factor=3, warmup_steps=1)
    go(guard, 2.0)
    guard.take(2, 8, 1e9, 1e9, False)
    assert guard.loss.value == pytest.approx(2)
    assert guard.steps == 1


def test_the_run_goes_back_after_as_many_skips_as_are_allowed():
    guard = make(skips_before_rollback=3, window_steps=10)
    verdicts = [guard.take(step, BATCH * step, math.nan, 0.0, False) for step in (1, 2, 3)]
    assert verdicts == [Verdict.GO_ON, Verdict.GO_ON, Verdict.ROLL_BACK]
    assert guard.skipped == [(1, 4), (2, 8), (3, 12)]


def test_skips_outside_of_the_window_are_forgotten():
    guard = make(skips_before_rollback=2, window_steps=10)
    guard.take(1, 4, math.nan, 0.0, False)
    assert guard.take(11, 44, math.nan, 0.0, False) is Verdict.GO_ON
    assert guard.skipped == [(11, 44)]
    assert guard.take(20, 80, math.nan, 0.0, False) is Verdict.ROLL_BACK


def test_what_a_guard_remembers_survives_a_commit():
    guard = make(spike_factor=3, warmup_steps=1, skips_before_rollback=2)
    go(guard, 0.1, 0.7, 0.3, norm=0.123456789)
    guard.take(9, 36, math.nan, 0.0, False)
    again = make(spike_factor=3, warmup_steps=1, skips_before_rollback=2)
    again.restore(json.loads(json.dumps(guard.state())))
    assert again == guard
    assert again.take(10, 40, math.nan, 0.0, False) is Verdict.ROLL_BACK


def test_skips_over_data_that_is_left_out_since_do_not_count_again():
    """Neither after the return to a commit that knows of them, nor when that commit is resumed."""
    guard = make(skips_before_rollback=3)
    for step in (96, 97):
        guard.take(step, step * 4, math.nan, 0.0, False)
    commit = guard.state()
    assert guard.take(101, 404, math.nan, 0.0, False) is Verdict.ROLL_BACK
    # What a commit keeps is of its own step.
    assert commit["skipped"] == [(96, 384), (97, 388)]
    guard.restore(json.loads(json.dumps(commit)), [(384, 408)])
    assert guard.skipped == []
    assert guard.take(109, 436, math.nan, 0.0, False) is Verdict.GO_ON
    guard.restore(commit, [(388, 408)])
    assert guard.skipped == [(96, 384)]


def test_stretches_are_left_out_until_they_are_too_many(tmp_path: Path):
    left_out = LeftOut(tmp_path, 2, alone())
    left_out.add(8, 16)
    left_out.add(40, 44)
    with pytest.raises(DivergedError, match=r"after 2 returns .* positions 60 to 64"):
        left_out.add(60, 64)
    assert LeftOut(tmp_path, 2, alone()).stretches == [(8, 16), (40, 44)]
    assert json.loads((tmp_path / FILE).read_text()) == {"left_out": [[8, 16], [40, 44]]}


def test_the_budget_counts_what_earlier_starts_left_out(tmp_path: Path):
    LeftOut(tmp_path, 1, alone()).add(0, 4)
    with pytest.raises(DivergedError):
        LeftOut(tmp_path, 1, alone()).add(8, 12)


def test_all_ranks_go_by_what_the_first_one_reads(tmp_path: Path):
    """Each in a view of the folder of its own, as a network file system may have it."""
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    (tmp_path / "0" / FILE).write_text(json.dumps({"left_out": [[8, 16]]}))

    def look(world: World) -> list[tuple[int, int]]:
        left_out = LeftOut(tmp_path / str(world.rank), 5, world)
        left_out.add(20, 24)
        return left_out.stretches

    assert together(2, look) == [[(8, 16), (20, 24)]] * 2
    assert not (tmp_path / "1" / FILE).exists()
