"""The resampling baseline: its rate, its arithmetic against a slow reference, and what it may look at."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import load_config
from configs.registry import BandStatistics, modality
from configs.schema import Stage1Config
from pipeline.data.transforms import measured_pixels
from pipeline.layers.image_scores import image_scores, image_sums
from pipeline.stage1.baseline import (
    Baseline,
    baseline_scores,
    resample,
    resample_classes,
    resample_image,
)
from pipeline.stage1.judging import Judge
from pipeline.stage1.objective import TokenizerObjective
from shards import open_data
from tests.report.made_up import make_shards

ROWS = {name: modality(name) for name in ("S2L2A", "S1GRD", "DEM", "NDVI", "LULC")}


@given(
    st.sampled_from(sorted(ROWS)),
    st.integers(1, 400),
    st.integers(2, 70_000),
    st.integers(1, 300),
)
def test_the_grid_is_the_largest_that_takes_no_more_than_the_tokens(
    name: str, num_tokens: int, vocab_size: int, side: int
) -> None:
    row = ROWS[name]
    plain = Baseline.at_rate(row, num_tokens, vocab_size, side)

    def cost(cells: int) -> float:
        if row.kind == "classes":
            return cells**2 * math.log2(row.num_classes)
        return row.num_bands * (8 * cells**2 + 2 * 8 * np.dtype(row.dtype).itemsize)

    budget = num_tokens * math.log2(vocab_size)
    assert plain.cells <= side
    if plain.cells:
        assert cost(plain.cells) <= budget + 1e-6
    if plain.cells < side:
        assert cost(plain.cells + 1) > budget


def test_the_rate_of_the_comparison() -> None:
    """144 tokens of 1,000 codes: 1,435 bits."""
    expected = {"S2L2A": 3, "DEM": 13, "LULC": 20}
    for name, cells in expected.items():
        assert Baseline.at_rate(ROWS[name], 144, 1000, 48).cells == cells


@pytest.mark.parametrize("cells", [1, 3, 7, 16])
@pytest.mark.parametrize("value", [0.0, -17.25, 12345.0])
def test_a_constant_image_is_kept_exactly(cells: int, value: float) -> None:
    x = torch.full((2, 3, 16, 16), value)
    valid = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.4
    assert torch.equal(resample_image(x, valid, cells), x)


def slow_cells(amounts: np.ndarray, valid: np.ndarray, cells: int) -> np.ndarray:
    """Means of [K, H, W] over valid pixels of each cell, NaN where there are none."""
    side = valid.shape[0]
    means = np.full((len(amounts), cells, cells), np.nan)
    for i in range(cells):
        for j in range(cells):
            rows = slice(i * side // cells, -(-(i + 1) * side // cells))
            columns = slice(j * side // cells, -(-(j + 1) * side // cells))
            good = valid[rows, columns]
            if good.any():
                means[:, i, j] = amounts[:, rows, columns][:, good].mean(1)
    return means


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel with the parameter of torch and OpenCV."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def slow_bicubic(small: np.ndarray, side: int) -> np.ndarray:
    cells = small.shape[-1]
    weights = np.zeros((side, cells))
    for i in range(side):
        place = (i + 0.5) * cells / side - 0.5
        first = math.floor(place) - 1
        for k in range(first, first + 4):
            weights[i, min(max(k, 0), cells - 1)] += cubic(place - k)
    return np.einsum("ia,cab,jb->cij", weights, small, weights)


@pytest.mark.parametrize("cells", [1, 2, 5, 11, 12])
def test_images_against_a_slow_reference(cells: int) -> None:
    rng = np.random.default_rng(cells)
    x = rng.normal(500, 200, (3, 12, 12)).astype(np.float32)
    valid = rng.random((12, 12)) > 0.3
    valid[:4, :4] = False
    low, high = x[:, valid].min(1)[:, None, None], x[:, valid].max(1)[:, None, None]
    means = slow_cells(x, valid, cells)
    means = np.where(np.isnan(means), x[:, valid].mean(1)[:, None, None], means)
    step = (high - low) / 255
    small = np.round((means - low) / step) * step + low
    expected = np.clip(slow_bicubic(small, 12), low, high)
    made = resample_image(torch.from_numpy(x)[None], torch.from_numpy(valid)[None], cells)[0]
    # A mean on the edge between two levels may fall to either side.
    np.testing.assert_allclose(made, expected, atol=1.5 * float(step.max()))
    assert np.abs(made.numpy() - expected).mean() < 0.02 * float(step.max())


@pytest.mark.parametrize("cells", [1, 3, 5, 12])
def test_class_maps_against_a_slow_reference(cells: int) -> None:
    rng = np.random.default_rng(cells)
    x = rng.integers(1, 6, (2, 12, 12))
    valid = rng.random((12, 12)) > 0.3
    valid[:4, :4] = False
    for c in range(2):
        votes = np.stack([(x[c] == k).astype(float) for k in range(6)])
        shares = slow_cells(votes, valid, cells)
        overall = votes[:, valid].mean(1)[:, None, None]
        small = np.where(np.isnan(shares), overall, shares).argmax(0)
        nearest = ((np.arange(12) + 0.5) * cells / 12).astype(int)
        expected = small[nearest][:, nearest]
        made = resample_classes(torch.from_numpy(x)[None], torch.from_numpy(valid)[None], cells, 6)[
            0, c
        ]
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("name", ["DEM", "S2L2A", "LULC"])
def test_what_is_not_valid_changes_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    row = ROWS[name]
    x = torch.from_numpy(rng.integers(1, 9, (2, row.num_bands, 24, 24)))
    valid = torch.from_numpy(rng.random((2, 24, 24)) > 0.5)
    valid[1] = False
    other = torch.where(valid[:, None], x, torch.zeros_like(x))
    made = resample(x, valid, row, 5)
    assert torch.equal(made, resample(other, valid, row, 5))
    assert torch.isfinite(made.float()).all()


def test_scores_are_those_of_the_pixels_in_physical_units() -> None:
    row, rng = ROWS["DEM"], np.random.default_rng(0)
    judge = Judge(row, BandStatistics((700.0,), (300.0,)), 10)
    windows = [
        (rng.normal(size=(1, 24, 24)).astype(np.float32), rng.random((24, 24)) > 0.2)
        for _ in range(3)
    ]
    scores = baseline_scores(windows, judge, 4)
    x = torch.from_numpy(np.stack([w for w, _ in windows]))
    valid = torch.from_numpy(np.stack([v for _, v in windows]))
    made = resample_image(x, valid, 4)
    truth, guess = x * 300 + 700, made * 300 + 700
    expected = image_scores(
        image_sums(guess, truth, valid, judge.ranges, spectral=False), row.bands
    )
    assert scores == pytest.approx(expected, rel=1e-5)
    error = (guess - truth)[valid[:, None]]
    assert scores["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)


def test_stored_windows_come_back_in_their_units() -> None:
    row, rng = ROWS["DEM"], np.random.default_rng(0)
    maps = rng.integers(0, 900, (2, 1, 24, 24)).astype(np.int16)
    maps[0, 0, :5] = -32768
    made = Baseline.at_rate(row, 144, 1000, 24).restore(maps)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 900
    lulc = ROWS["LULC"]
    classes = rng.integers(0, 10, (2, 1, 24, 24)).astype(np.uint8)
    made = Baseline(lulc, 1e9, 24).restore(classes)
    # With room for every pixel, only pixels without data are guessed.
    np.testing.assert_array_equal(made[classes > 0], classes[classes > 0])
    assert (made > 0).all()


def test_where_not_one_cell_fits_there_are_no_scores() -> None:
    plain = Baseline.at_rate(ROWS["S2L2A"], 4, 1000, 48)
    assert plain.cells == 0
    record = plain.record([], Judge(ROWS["S2L2A"], None, 10))
    assert record["scores"] == {}
    assert record["spent_bits"] == 0


def test_the_record_is_json_that_everybody_reads() -> None:
    """Without a single valid pixel nothing is right or wrong."""
    row = ROWS["LULC"]
    nothing = (np.zeros((1, 24, 24), np.uint8), np.zeros((24, 24), bool))
    record = Baseline.at_rate(row, 144, 1000, 24).record([nothing], Judge(row, None, 10))
    assert json.loads(json.dumps(record, allow_nan=False))["scores"]["accuracy"] is None


@pytest.mark.parametrize("name", ["DEM", "LULC"])
def test_a_run_leaves_what_resampling_reaches_on_its_held_out_windows(
    name: str, tmp_path: Path
) -> None:
    make_shards(tmp_path / "shards", 40)
    config = load_config(
        "configs/stage1/compare.yaml",
        [f"modality={name}", f"data.shards={tmp_path / 'shards'}", f"out={tmp_path / 'run'}",
         "engine.eval_samples=5", "tokenizer.decoder=gan", "tokenizer.width=24"],
    )  # fmt: skip
    assert isinstance(config, Stage1Config)
    dataset = open_data(config.data)
    objective = TokenizerObjective(config, dataset)
    objective.finish(tmp_path)

    row = dataset.modalities[name]
    plain = Baseline.at_rate(row, 144, 1000, 48)
    held_out = dataset.select("val", require=[name])
    chosen = held_out[np.linspace(0, len(held_out) - 1, 5).astype(int)]
    truth = np.stack([dataset.read(int(i), [name])[name] for i in chosen])
    made = plain.restore(truth)
    valid = np.stack([measured_pixels(m, row) for m in truth])[:, None]
    scores = json.loads((tmp_path / "baseline.json").read_text())["scores"]
    if name == "LULC":
        assert scores["accuracy"] == pytest.approx((made == truth)[valid].mean())
    else:
        error = (made - truth)[valid]
        assert scores["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
    with np.load(tmp_path / "reconstructions.npz") as arrays:
        np.testing.assert_array_equal(arrays["baseline"], plain.restore(arrays["truth"]))
    counts = json.loads((tmp_path / "parameters.json").read_text())
    critic = objective.critic
    assert critic is not None
    assert counts["critic"] == sum(p.numel() for p in critic.model.parameters())
    assert counts["tokenizer"] == sum(p.numel() for p in objective.model.parameters())
