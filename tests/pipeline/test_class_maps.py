"""Class maps of one and of two dates: into the encoder, into scores, into pictures."""

import numpy as np
import pytest
import torch

from configs.registry import modality
from pipeline.generate.decode import summarise
from pipeline.generate.scores import MapScore, constant_guess
from pipeline.layers.patches import patchify
from pipeline.report.pictures import legend_of
from pipeline.report.scores import picture_score
from pipeline.stage1.encoder import CLASS_WIDTH, ClassInput

TWO_DATES = modality("LULCchange")


def maps(b: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 10, (b, 2, 8, 8), generator=rng, dtype=torch.uint8)


def test_one_map_is_embedded_as_ever():
    torch.manual_seed(0)
    layer, x = ClassInput(10, 4, 16), maps()[:, :1]
    assert layer.proj.in_features == CLASS_WIDTH * 16
    channels = layer.class_embed(x[:, 0].long()).permute(0, 3, 1, 2)
    expected = layer.proj(patchify(channels, 4))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


def test_two_maps_share_embeddings_and_lie_side_by_side_in_a_patch():
    torch.manual_seed(0)
    layer, x = ClassInput(10, 4, 16, num_maps=2), maps()
    assert layer.class_embed.num_embeddings == 10
    table, found = layer.class_embed.weight, layer(x)
    assert found.shape == (2, 4, 16)
    patch = [
        table[int(x[1, m, 4 + r, c])] for r in range(4) for c in range(4) for m in range(2)
    ]  # the third patch: second row of patches, first column
    torch.testing.assert_close(found[1, 2], layer.proj(torch.cat(patch)))
    assert not torch.allclose(layer(x.flip(1)), found)


def test_scores_of_generated_maps_count_both_dates():
    truth = np.array([[[1, 2, 0]], [[1, 4, 4]]], np.uint8)
    guess = np.array([[[1, 2, 5]], [[2, 2, 4]]], np.uint8)
    score = MapScore(TWO_DATES)
    score.add(guess, truth)
    assert score.confusion.sum() == 4
    assert score.confusion[1, 2] == score.confusion[4, 2] == 1
    assert score.values()["accuracy"] == pytest.approx(0.5)
    assert picture_score(guess, truth, TWO_DATES) == "50 % right"
    constant, name = constant_guess(TWO_DATES, None, np.array([9, 1, 0, 0, 5, 0, 0, 0, 0, 0]))
    assert name == "most frequent class: crops"
    score.add(np.broadcast_to(constant, truth.shape), truth)
    assert score.confusion.sum() == 8


def test_draws_of_two_dates_are_voted_on_pixel_by_pixel():
    draws = [[np.full((2, 1, 2), v, np.uint8)] for v in (3, 4, 4)]
    draws[0][0][0, 0, 0] = draws[1][0][0, 0, 0] = 7
    (voted,) = summarise(draws, TWO_DATES)
    assert np.asarray(voted).tolist() == [[[7, 4]], [[4, 4]]]


def test_the_legend_says_which_map_is_which():
    assert "before, after" in str(legend_of(TWO_DATES))
    assert "before" not in str(legend_of(modality("LULC")))
