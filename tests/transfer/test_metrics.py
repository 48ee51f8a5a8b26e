"""Metrics against torchmetrics, intervals against what they mean."""

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given
from hypothesis import strategies as st

from pipeline.layers.scores import class_scores
from pipeline.transfer.metrics import (
    better,
    contributions,
    multilabel_values,
    summarise,
)

SEEDS = st.integers(0, 2**31)


def number(x: torch.Tensor | None) -> float:
    assert x is not None
    return float(x)


def values(task, outputs, truth):
    found, matrix = summarise(task, contributions(task, outputs, truth))
    counts = np.zeros(()) if matrix is None else matrix
    return {name: score["value"] for name, score in found.items()}, counts


@given(SEEDS)
def test_classification_agrees_with_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    outputs, truth = rng.normal(size=(40, 5)), rng.integers(0, 5, 40)
    truth[:5] = range(5)
    found, matrix = values("classification", outputs, truth)
    o, t = torch.from_numpy(outputs), torch.from_numpy(truth)
    kind = {"task": "multiclass", "num_classes": 5}
    assert found["accuracy"] == pytest.approx(number(tm.accuracy(o, t, **kind, average="micro")))
    assert found["f1"] == pytest.approx(number(tm.f1_score(o, t, **kind, average="macro")))
    assert found["miou"] == pytest.approx(number(tm.jaccard_index(o, t, **kind)))
    assert np.array_equal(matrix, tm.confusion_matrix(o, t, **kind).numpy())


@given(SEEDS)
def test_segmentation_agrees_with_the_scores_of_the_tokenizers(seed):
    rng = np.random.default_rng(seed)
    outputs, truth = rng.normal(size=(3, 4, 6, 5)), rng.integers(-1, 3, (3, 6, 5))
    found, matrix = values("segmentation", outputs, truth)
    other = class_scores(torch.from_numpy(matrix), dict(enumerate("abcd")))
    for name in ("accuracy", "miou", "f1"):
        assert found[name] == pytest.approx(other[name])
    assert matrix.sum() == (truth >= 0).sum()


@given(SEEDS)
def test_multilabel_agrees_with_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    # Few different scores: ties have to enter together.
    outputs, truth = rng.integers(-4, 5, (50, 4)) / 4.0, rng.integers(0, 2, (50, 4))
    truth[0] = 1
    found, _ = values("multilabel", outputs, truth)
    o, t = torch.from_numpy(outputs), torch.from_numpy(truth)
    kind = {"task": "multilabel", "num_labels": 4}
    theirs = tm.average_precision(torch.sigmoid(o), t, **kind, average="macro")
    assert found["map"] == pytest.approx(number(theirs), abs=1e-6)
    guess = (o > 0).long()
    assert found["f1"] == pytest.approx(number(tm.f1_score(guess, t, **kind, average="macro")))
    assert found["f1_micro"] == pytest.approx(
        number(tm.f1_score(guess, t, **kind, average="micro"))
    )


def test_a_class_without_a_positive_is_left_out_of_map():
    scores, truth = np.array([[1.0, 2], [0, 1]]), np.array([[1.0, 0], [0, 0]])
    assert multilabel_values(scores, truth, np.ones((1, 2)))["map"][0] == 1


@given(SEEDS)
def test_regression_agrees_with_torchmetrics_where_something_was_measured(seed):
    rng = np.random.default_rng(seed)
    outputs, truth = rng.normal(size=(4, 1, 5, 5)), rng.normal(size=(4, 1, 5, 5))
    truth[rng.random(truth.shape) < 0.3] = np.nan
    found, matrix = values("regression", outputs, truth)
    known = np.isfinite(truth)
    o, t = torch.from_numpy(outputs[known]), torch.from_numpy(truth[known])
    assert found["rmse"] == pytest.approx(number(tm.mean_squared_error(o, t, squared=False)))
    assert found["mae"] == pytest.approx(number(tm.mean_absolute_error(o, t)))
    assert found["r2"] == pytest.approx(number(tm.r2_score(o, t)))
    assert matrix.ndim == 0


def test_batches_add_up():
    rng = np.random.default_rng(0)
    outputs, truth = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    whole = contributions("classification", outputs, truth)
    parts = [
        contributions("classification", outputs[s], truth[s]) for s in np.array_split(range(9), 4)
    ]
    assert np.array_equal(whole, np.concatenate(parts))


def test_an_interval_covers_an_accuracy_as_the_binomial_does():
    """Of 200 samples 140 right: the standard error is sqrt(0.7 * 0.3 / 200)."""
    truth = np.zeros(200, dtype=np.int64)
    outputs = np.stack([np.arange(200) < 140, np.full(200, 0.5)], 1).astype(float)
    added = contributions("classification", outputs, truth)
    found = summarise("classification", added, 2000, seed=1)[0]["accuracy"]
    error = 1.96 * (0.7 * 0.3 / 200) ** 0.5
    assert found["value"] == 0.7
    assert found["low"] == pytest.approx(0.7 - error, abs=0.01)
    assert found["high"] == pytest.approx(0.7 + error, abs=0.01)
    assert summarise("classification", added, 2000, seed=1)[0]["accuracy"] == found


def test_pixels_of_one_sample_are_not_resampled_apart():
    """Two images, one all right and one all wrong: accuracies of resamplings are 0, 1/2 or 1."""
    truth = np.zeros((2, 8, 8), dtype=np.int64)
    outputs = np.zeros((2, 2, 8, 8))
    outputs[0, 0], outputs[1, 1] = 1, 1
    found = summarise("segmentation", contributions("segmentation", outputs, truth), 500)[0]
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (0, 1)


def test_better_knows_errors_from_scores():
    assert better("segmentation", 0.5, 0.4)
    assert better("regression", 0.4, 0.5)
    assert not better("regression", float("nan"), 0.5)
    assert better("regression", 3.0, None)
