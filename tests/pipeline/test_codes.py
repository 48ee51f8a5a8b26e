"""Rows of codes that count something are alike where they are near, and all of one size."""

import pytest
import torch

from configs.schema import DataConfig, MaskedConfig
from pipeline.inspection.assumed import AssumedData
from pipeline.layers.codes import counting_rows, init_codes
from pipeline.stage1.place_time import COORDINATE_SIZES, DATE_SIZES
from pipeline.stage2.layout import Layout, build_layout


@pytest.mark.parametrize("length", [12, 40, 721])
def test_rows_are_the_more_alike_the_nearer_they_are(length):
    torch.manual_seed(0)
    rows = counting_rows(length, 512)
    alike = rows @ rows.T
    torch.testing.assert_close(alike.diagonal(), torch.ones(length), atol=0.15, rtol=0)
    mean = [alike.diagonal(k).mean().item() for k in (0, 1, 2, length // 4, length // 2)]
    assert mean == sorted(mean, reverse=True)
    # The next one is no twin of it.
    assert 0.3 < mean[1] < 0.9
    assert mean[-1] < 0.4


def test_runs_have_waves_of_their_own_and_the_rest_is_noise():
    torch.manual_seed(0)
    table = torch.zeros(60, 256)
    init_codes(table, [(10, 20), (30, 20)])
    alike = table @ table.T
    torch.testing.assert_close(table.norm(dim=1), torch.ones(60), atol=0.2, rtol=0)
    assert alike[10:30, 10:30].diagonal(1).mean() > 0.35
    # Row k of one run and row k of another mean nothing to each other; nor do codes that count nothing.
    assert alike[10:30, 30:50].abs().mean() < 0.2
    assert alike[:10, :10].fill_diagonal_(0).abs().max() < 0.3


def test_of_a_layout_places_and_days_count():
    names = ("DEM", "coordinates", "date")
    masked = MaskedConfig.model_validate({"tokens": names, "targets": names})
    data = AssumedData(DataConfig.model_validate({"shards": "none"}), names, {})
    layout = build_layout(masked, data)
    dem, place, day = layout.streams
    assert [length for _, length in layout.runs] == [*COORDINATE_SIZES, *DATE_SIZES]
    assert [first for first, _ in layout.runs][:2] == [dem.vocab_size, dem.vocab_size + 18]
    assert layout.runs[4] == (day.vocab_offset, 100)
    assert sum(place.runs) == place.vocab_size
    assert Layout.from_dict(layout.to_dict()) == layout
    # Runs trained before layouts knew of it.
    record = layout.to_dict()
    for stream in record["streams"]:
        del stream["runs"]
    assert Layout.from_dict(record).runs == []
