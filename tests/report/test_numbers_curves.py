"""Numbers, axes and scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import modality_registry
from pipeline.report.curves import Line, chart, linear_ticks, log_ticks, thin
from pipeline.report.numbers import number, percent
from pipeline.report.scores import ScoreRow, picture_score


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (0.0, "0"), (12345, "12,345"), (1234.5, "1,234"), (999.4, "999"), (12.345, "12.3"),
        (0.0912, "0.0912"), (0.00001234, "1.23e−05"), (-2.5, "−2.50"), (float("nan"), "n/a"),
        (float("inf"), "n/a"), (None, "n/a"), (True, "n/a"), ("7", "n/a"),
    ],
)  # fmt: skip
def test_number(value: object, shown: str) -> None:
    assert number(value) == shown


@given(st.floats(1e-3, 1e9))
def test_number_keeps_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


def test_percent() -> None:
    assert percent(0.42135) == "42.1 %"
    assert percent(float("nan")) == "n/a"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_are_round_inside_and_few(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)


@given(st.floats(1e-6, 1e3), st.floats(8, 1e6))
def test_log_ticks_lie_inside(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert 1 <= len(ticks) <= 12
    assert all(low <= t <= low * factor for t in ticks)


def test_thin_keeps_both_ends() -> None:
    points = [(float(i), 0.0) for i in range(12345)]
    kept = thin(points)
    assert len(kept) <= 300
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_chart_without_values_says_so() -> None:
    assert "no values yet" in chart("loss", "", [Line("train", [])], 100)


def test_chart_of_one_or_constant_values_stays_on_the_panel() -> None:
    for points in ([(5.0, 0.0)], [(1.0, 3.0), (2.0, 3.0)], [(1.0, -1.0), (2.0, 1e-9)]):
        shown = chart("loss", "", [Line("train", points)], 0)
        assert "nan" not in shown
        assert "inf" not in shown


def test_wide_ranges_are_drawn_on_a_logarithmic_scale() -> None:
    wide = [(1.0, 10.0), (2.0, 0.1)]
    assert "logarithmic" in chart("loss", "", [Line("train", wide)], 2)
    assert "logarithmic" not in chart("lr", "", [Line("train", wide)], 2, log=False)


def score(metric: str, model: float, baseline: float, tokens: float) -> ScoreRow:
    return ScoreRow("S2L2A", "DEM", metric, "m", model, baseline, "training mean", tokens, 1)


def test_direction_of_better_follows_the_metric() -> None:
    assert score("rmse", 1, 2, 0.5).better
    assert not score("accuracy", 0.1, 0.2, 0.5).better
    assert not score("rmse", math.nan, 2, 1).better
    assert not score("rmse", 2, 2, 1).better


def test_way_to_the_ceiling() -> None:
    assert score("rmse", 2, 3, 1).way == pytest.approx(0.5)
    assert score("miou", 0.4, 0.1, 0.7).way == pytest.approx(0.5)
    assert score("rmse", 2, 3, 4).way is None
    assert score("rmse", 2, 3, math.nan).way is None


def test_picture_score_leaves_nodata_out() -> None:
    rows = modality_registry()
    truth = np.array([[[1, 2], [0, 4]]], dtype=np.uint8)
    assert picture_score(np.array([[[1, 1], [7, 4]]]), truth, rows["LULC"]) == "67 % right"
    height = np.array([[[10, 20], [-32768, 40]]], dtype=np.int16)
    assert picture_score(height + np.float32(3), height, rows["DEM"]) == "RMSE 3.00 m"
    assert picture_score(height, np.full_like(height, -32768), rows["DEM"]) == "no valid pixel"
