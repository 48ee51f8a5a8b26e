"""Values that change at a date or with a source: what is found, the advice, and the sketches behind it."""

import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.registry import modality
from shards.build import build
from shards.checks.drift import Drift, first_day, period_of, quantiles
from shards.checks.steps import find_steps
from shards.sample import Sample
from shards.verify import verify
from tests.shards.flaws import series
from tests.shards.helpers import source_config
from tests.shards.planted import build_planted, image


@pytest.mark.parametrize(("offset", "advice"), [(1000, "take 1,000 from"), (-1000, "add 1,000 to")])
def test_the_offset_of_sentinel_2_is_found(offset: int, advice: str, tmp_path: Path) -> None:
    report = verify(build_planted(tmp_path / "set", series(offset)))
    (finding,) = report.warnings
    assert report.ok
    assert finding.where == "S2L2A"
    assert "from 2022-01-25 on its values are about " in finding.what
    assert ("higher" if offset > 0 else "lower") in finding.what
    assert "in 12 of 12 bands" in finding.what
    assert "(20 samples)" in finding.what
    assert advice in finding.todo
    # The option adds 1,000: no answer to values that are too high already.
    assert ("source.harmonise_s2=true" in finding.todo) == advice.startswith("add")


def test_harmonised_images_are_passed_and_so_are_few(tmp_path: Path) -> None:
    assert verify(build_planted(tmp_path / "harmonised", series(0))).findings == []
    assert verify(build_planted(tmp_path / "few", series(1000, days=16))).findings == []


def test_the_advice_is_what_the_source_can_do() -> None:
    drift = drift_of(series(-1000))
    rows = {"S2L2A": modality("S2L2A")}
    for source, advice in (
        ({"type": "terramesh", "harmonise_s2": False}, "build again with source.harmonise_s2=true"),
        ({"type": "terramesh", "harmonise_s2": True}, "add 1,000 to"),
        ({"type": "synthetic"}, "has this offset on purpose"),
    ):
        (finding,) = find_steps(drift, rows, source)
        assert advice in finding.todo


def test_the_synthetic_earth_has_the_offset_and_it_is_said_honestly(tmp_path: Path) -> None:
    source = {
        "type": "synthetic",
        "num_samples": 96,
        "tile_px": 24,
        "modalities": ["S2L2A", "date"],
    }
    build(source_config(source, tmp_path / "set"), quiet=True)
    report = verify(tmp_path / "set")
    (finding,) = [f for f in report.warnings if "offset" in f.what]
    assert finding.where == "S2L2A"
    assert "on purpose" in finding.todo


def drift_of(samples: list[Sample], sources: tuple[str, ...] = ("planted",)) -> Drift:
    drift = Drift()
    for i, one in enumerate(samples):
        for name, part in one.parts.items():
            if name in one.meta.times and isinstance(part, np.ndarray):
                day = datetime.date.fromisoformat(one.meta.times[name])
                found = quantiles(part, modality(name))
                drift.add(name, one.key, day, sources[i % len(sources)], found)
    drift.pack()
    return drift


@pytest.mark.parametrize(("offset", "is_told"), [(0, False), (0.5, False), (30, True)])
def test_any_step_at_a_month_is_found_when_it_is_large(offset: float, is_told: bool) -> None:
    rows = {"S1GRD": modality("S1GRD")}
    found = find_steps(drift_of(series(offset, "S1GRD", days=80)), rows, {})
    assert bool(found) == is_told
    for finding in found:
        assert finding.what.startswith("from 2022-01-25 on its values differ")
        assert "data.filter.dates" in finding.todo


def test_a_source_unlike_the_others_is_named() -> None:
    samples = series(0, "S1GRD", days=90)
    for one in samples[2::3]:
        np.asarray(one.parts["S1GRD"])[:] += 40
    drift = drift_of(samples, ("a", "b", "c"))
    (finding,) = find_steps(drift, {"S1GRD": modality("S1GRD")}, {})
    assert finding.what.startswith("source 'c' differs from the others")
    assert (
        find_steps(drift_of(series(0, "S1GRD"), ("a", "b")), {"S1GRD": modality("S1GRD")}, {}) == []
    )


@pytest.mark.parametrize("name", ["S2L2A", "S1GRD"])
def test_quantiles_are_numpys_over_the_valid_pixels(name: str) -> None:
    row, array = modality(name), image(3, name)
    whole = quantiles(array, row)
    expected = np.quantile(array.reshape(len(array), -1), [0.02, 0.98], axis=1, method="lower").T
    np.testing.assert_array_equal(whole, expected.astype(np.float32))
    assert row.nodata is not None
    array[0] = row.nodata
    array[1, :4] = row.nodata
    part = quantiles(array, row)
    assert np.isnan(part[0]).all()
    expected = np.quantile(array[1, 4:], [0.02, 0.98], method="lower")
    np.testing.assert_array_equal(part[1], expected.astype(np.float32))
    # Of a large image a subsample: near the quantiles of all of it.
    large = np.random.default_rng(0).normal(0, 1, (2, 400, 500)).astype(np.float32)
    np.testing.assert_allclose(quantiles(large, modality("S1GRD")), [[-2.05, 2.05]] * 2, atol=0.2)


def test_periods_are_months_but_for_the_one_of_the_offset() -> None:
    days = [datetime.date(2021, 12, 1) + datetime.timedelta(i) for i in range(90)]
    begins = [first_day(period).isoformat() for period in sorted({period_of(day) for day in days})]
    assert begins == ["2021-12-01", "2022-01-01", "2022-01-25", "2022-02-01"]


@settings(max_examples=20)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_sketches_do_not_depend_on_the_order_of_merging(order: list[int], cut: int) -> None:
    rng = np.random.default_rng(0)
    packed = []
    for shard in range(12):
        drift = Drift()
        for i in range(30):
            key = f"{shard}-{i}"
            drift.add("S1GRD", key, datetime.date(2020, 1, 1), "a", rng.random((2, 2)))
        drift.pack()
        packed.append(drift)
    merged = []
    for sequence in (range(12), order):
        sides = (Drift(), Drift())
        for place_, shard in enumerate(sequence):
            sides[place_ >= cut].merge(packed[shard])
        sides[0].merge(sides[1])
        (sketch,) = sides[0].periods.values()
        merged.append(sketch)
    assert merged[0].count == merged[1].count == 360
    assert len(merged[0].order) == 128
    np.testing.assert_array_equal(merged[0].values, merged[1].values)


def test_a_source_per_sample_is_no_source_and_takes_no_memory() -> None:
    drift = drift_of(series(0, days=80), tuple(f"file{i}" for i in range(80)))
    assert drift.sources == {}
    assert drift.periods
