"""Dates of a modality share what is learned of it and are told apart by their days; any may be missing."""

import datetime
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.layers.dates import NUM_FEATURES, PERIODS_YEARS, date_features
from pipeline.stage2 import artifact
from pipeline.stage2.masking import Selection
from pipeline.stage2.samples import Content, Masked
from pipeline.stage2.warm_start import plan_start, warm_start
from tests.pipeline.dated import (
    CONFIG,
    DATES,
    LAYOUT,
    MIXED,
    NORMALISERS,
    ROWS,
    batch_of,
    config_of,
    layout_of,
    masked,
    model_of,
)


@pytest.mark.parametrize("day", ["2020-02-29", "1999-12-31", "2021-01-01", "2024-07-15"])
def test_a_day_is_a_point_on_circles_of_seasons_and_years(day: str):
    date = datetime.date.fromisoformat(day)
    length = 366 if date.year % 4 == 0 else 365
    years = date.year - 2000 + (date.timetuple().tm_yday - 1) / length
    angles = [2 * math.pi * years / period for period in PERIODS_YEARS]
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    assert date_features(day) == pytest.approx(expected, abs=1e-5)
    assert len(expected) == NUM_FEATURES


def test_new_year_s_eve_is_next_to_new_year_s_day_and_years_differ():
    eve, new, summer = map(date_features, ("2020-12-31", "2021-01-01", "2021-07-02"))
    later = date_features("2022-01-01")
    assert np.abs(eve - new).max() < 0.08
    assert np.abs(new - summer).max() > 1.9
    assert 0.3 < np.abs(new - later).max() < 1.6


def test_without_dates_nothing_is_added_and_a_day_that_is_not_known_adds_nothing():
    one = config_of({})
    plain, dated = model_of(one, layout_of(one)), model_of()
    added = {n for n, _ in dated.named_parameters()} - {n for n, _ in plain.named_parameters()}
    assert added == {"date_embed.weight"}
    assert all(p.shape == dated.get_parameter(n).shape for n, p in plain.named_parameters())
    dated.load_state_dict(plain.state_dict(), strict=False)
    given, asked = {"S1GRD@px": [0, 3], "LULC@tok": [1]}, {"NDVI@tok": [0, 1, 2]}
    known = masked(given, asked)
    unknown = Masked(Content(known.content.streams), known.selection)
    before = plain(batch_of([masked(given, asked, layout=plain.layout)], plain.layout)).loss
    assert torch.equal(before, dated(batch_of([unknown])).loss)
    assert not torch.allclose(before, dated(batch_of([known])).loss)


@pytest.mark.parametrize("changes", [{}, {"uncertainty": True}, {"embeddings": "4m"}])
def test_a_batch_with_any_dates_missing_has_the_gradients_of_its_samples(changes: dict[str, Any]):
    model = model_of(config_of(DATES, **changes))
    model(batch_of(MIXED)).loss.sum().backward()
    together = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert together.keys() == {n for n, _ in model.named_parameters()}
    model.zero_grad()
    for sample in MIXED:
        model(batch_of([sample])).loss.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_every_parameter_is_used_in_the_same_order_whichever_dates_are_there():
    model, orders = model_of(), []
    for sample in MIXED:
        seen: list[str] = []
        handles = [
            p.register_post_accumulate_grad_hook(lambda _, n=n, seen=seen: seen.append(n))
            for n, p in model.named_parameters()
        ]
        model(batch_of([sample])).loss.sum().backward()
        for handle in handles:
            handle.remove()
        orders.append(seen)
    assert set(orders[0]) == {n for n, _ in model.named_parameters()}
    assert orders[0] == orders[1] == orders[2]


@torch.no_grad()
def test_dates_are_told_apart_by_their_days_alone():
    """Two dates exchange content and day: the same tokens in another order."""
    sample = masked({"S1GRD@px": [0, 1], "S1GRD_t2@px": [2, 3]}, {"NDVI_t1@tok": [0]})
    a, b = LAYOUT.index("S1GRD@px"), LAYOUT.index("S1GRD_t2@px")
    streams, days = dict(sample.content.streams), dict(sample.content.days)
    streams[a], streams[b], days[a], days[b] = streams[b], streams[a], days[b], days[a]
    places = {a: np.array([2, 3]), b: np.array([0, 1])}
    other = Masked(Content(streams, days), Selection(places, sample.selection.targets))
    model = model_of()
    one, two = (model.encode(batch_of([s])).tokens[0] for s in (sample, other))
    torch.testing.assert_close(one[:4], two[[2, 3, 0, 1]])
    same_day = Masked(Content(streams, days | {a: days[b]}), other.selection)
    assert not torch.allclose(model.encode(batch_of([same_day])).tokens[0], two)


@torch.no_grad()
def test_what_is_asked_for_depends_on_the_day_that_is_asked_for():
    model = model_of()
    sample = masked({"DEM@px": [0, 1]}, {"NDVI_t1@tok": [0, 1]})
    i = LAYOUT.index("NDVI_t1@tok")
    later = Masked(Content(sample.content.streams, {i: "2021-10-10"}), sample.selection)
    found = [model.decode(b, model.encode(b)) for b in map(batch_of, ([sample], [later]))]
    assert not torch.allclose(found[0][0, :2], found[1][0, :2])


@torch.no_grad()
def test_a_model_of_one_date_goes_on_with_several_and_back(tmp_path):
    one = config_of({})
    old = model_of(one, layout_of(one)).float()
    for p in old.parameters():
        p.add_(0.1 * torch.randn_like(p))
    artifact.save(old, NORMALISERS, tmp_path / "one" / "artifact")
    new = model_of().float()
    fresh_dates = new.get_parameter("date_embed.weight").clone()
    start = plan_start(tmp_path / "one", LAYOUT, CONFIG, ROWS)
    warm_start(new, start)
    assert not start.fresh
    assert set(start.normalisers) == {"S1GRD", "DEM"}
    assert torch.equal(new.get_parameter("date_embed.weight"), fresh_dates)
    given, asked = {"S1GRD@px": [0, 3], "LULC@tok": [1]}, {"NDVI@tok": [0, 1, 2]}
    known = masked(given, asked)
    unknown = Masked(Content(known.content.streams), known.selection)
    before = old(batch_of([masked(given, asked, layout=old.layout)], old.layout)).loss
    assert torch.equal(before, new(batch_of([unknown])).loss)

    artifact.save(new, NORMALISERS, tmp_path / "several" / "artifact")
    fewer = config_of({"S1GRD": 2, "NDVI": 1})
    back = model_of(fewer, layout_of(fewer)).float()
    warm_start(back, plan_start(tmp_path / "several", back.layout, fewer, ROWS))
    sample = masked(given, asked, layout=back.layout)
    assert torch.equal(new(batch_of([known])).loss, back(batch_of([sample], back.layout)).loss)
