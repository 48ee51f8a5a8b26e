"""Learning rates against the published formulas, lengths against arithmetic."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import ConfigError
from pipeline.engine.schedule import Schedule, build_schedule
from tests.engine.tiny import make_config

KINDS = ("cosine", "wsd", "inverse_sqrt", "constant")


def make(num_steps: int, warmup: int, tokens_per_sample: int = 0, **schedule: Any) -> Schedule:
    config = make_config(num_steps=num_steps, schedule={"warmup_steps": warmup, **schedule})
    return build_schedule(config, tokens_per_sample)


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_up_is_a_line_that_ends_at_the_peak(kind: str):
    schedule = make(100, 10, kind=kind)
    assert [schedule.factor(s) for s in range(10)] == pytest.approx([k / 10 for k in range(1, 11)])
    assert schedule.factor(10) == pytest.approx(1.0)


@pytest.mark.parametrize("step", [10, 11, 40, 77, 99])
def test_cosine_is_loshchilov_and_hutters(step: int):
    # Their eq. 5 with eta_max 1, eta_min 0.1, T_i 90 and T_cur counted from the end of the warm-up.
    expected = 0.1 + 0.5 * 0.9 * (1 + math.cos(math.pi * (step - 10) / 90))
    assert make(100, 10, kind="cosine", final_lr_ratio=0.1).factor(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"), [(10, 1.0), (79, 1.0), (80, 1.0), (90, 0.55), (99, 0.1 + 0.9 / 20)]
)
def test_wsd_stays_at_the_peak_and_falls_on_a_line(step: int, expected: float):
    schedule = make(100, 10, kind="wsd", final_lr_ratio=0.1, decay_share=0.2)
    assert schedule.factor(step) == pytest.approx(expected)


@pytest.mark.parametrize("step", [16, 17, 64, 255])
def test_inverse_sqrt_is_vaswanis_scaled_to_one(step: int):
    def published(number: int) -> float:  # their eq. 3, for warmup_steps = 16, without d_model
        return min(number**-0.5, number * 16**-1.5)

    schedule = make(256, 16, kind="inverse_sqrt", final_lr_ratio=0)
    assert schedule.factor(step) == pytest.approx(published(step) / published(16))


def test_inverse_sqrt_does_not_fall_below_its_floor():
    assert make(10_000, 1, kind="inverse_sqrt", final_lr_ratio=0.3).factor(9_999) == 0.3


@given(
    kind=st.sampled_from(KINDS),
    num_steps=st.integers(1, 500),
    warmup=st.integers(0, 500),
    floor=st.floats(0, 1),
    share=st.floats(0.01, 1),
)
def test_every_update_of_a_run_has_a_rate_above_zero_and_up_to_the_peak(
    kind, num_steps, warmup, floor, share
):
    schedule = make(num_steps, warmup, kind=kind, final_lr_ratio=floor, decay_share=share)
    factors = [schedule.factor(step) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    behind = factors[warmup:]
    assert behind == sorted(behind, reverse=True)


@pytest.mark.parametrize(
    ("length", "num_steps"),
    [
        ({"num_steps": 7}, 7),
        ({"num_steps": None, "num_samples": 28}, 7),
        ({"num_steps": None, "num_samples": 29}, 8),
        ({"num_steps": None, "num_tokens": 1120}, 7),
    ],
)
def test_a_length_in_samples_or_tokens_becomes_steps(length: dict[str, Any], num_steps: int):
    config = make_config(**length, schedule={"warmup_samples": 8})
    schedule = build_schedule(config, tokens_per_sample=40)
    assert (schedule.num_steps, schedule.warmup_steps) == (num_steps, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_steps": None, "num_tokens": 100}, r"engine\.num_tokens is said in tokens"),
        ({"schedule": {"warmup_tokens": 9}}, r"engine\.schedule\.warmup_tokens is said in tokens"),
    ],
)
def test_tokens_of_a_model_without_tokens_are_refused(changes: dict[str, Any], named: str):
    with pytest.raises(ConfigError, match=named):
        build_schedule(make_config(**changes), tokens_per_sample=0)


@given(
    kind=st.sampled_from(("cosine", "inverse_sqrt", "constant")),
    units=st.integers(2, 60),
    warmup_units=st.integers(1, 60),
    batches=st.tuples(st.sampled_from((1, 2, 3, 4, 6, 12)), st.sampled_from((1, 2, 3, 4, 6, 12))),
)
def test_said_in_samples_the_curve_does_not_change_with_the_global_batch(
    kind, units, warmup_units, batches
):
    def build(global_batch: int) -> Schedule:
        return build_schedule(
            make_config(
                global_batch=global_batch,
                num_steps=None,
                num_samples=12 * (units + warmup_units),
                schedule={"kind": kind, "warmup_samples": 12 * warmup_units},
            ),
            0,
        )

    one, other = map(build, batches)
    for samples in range(12 * warmup_units, 12 * (units + warmup_units), 12):
        found = [s.factor(samples // b) for s, b in zip((one, other), batches, strict=True)]
        assert found[0] == pytest.approx(found[1])
