"""Building blocks against slow plain versions."""

import math

import numpy as np
import pytest
import torch

from pipeline.layers.attention import CrossAttention, SelfAttention, padding_mask
from pipeline.layers.patches import patchify, unpatchify
from pipeline.layers.positions import (
    METRES_PER_UNIT,
    distance_bias,
    grid_centres,
    grid_positions,
    head_slopes,
    sincos,
)
from pipeline.layers.scores import accuracy, code_usage, miou


def test_patches_are_row_major_and_row_column_band_inside():
    x = torch.randn(2, 3, 8, 12)
    p = patchify(x, 4)
    assert p.shape == (2, 6, 48)
    expected = x[1, :, 4:8, 8:12].permute(1, 2, 0).flatten()
    torch.testing.assert_close(p[1, 5], expected)
    torch.testing.assert_close(unpatchify(p, 4, 8, 12), x)


def slow_attention(q, k, v, num_heads, mask):
    out = np.zeros_like(q)
    d = q.shape[-1] // num_heads
    for h in range(num_heads):
        s = slice(h * d, (h + 1) * d)
        for i in range(len(q)):
            scores = np.array([q[i, s] @ k[j, s] / math.sqrt(d) for j in range(len(k))])
            scores[~mask[i]] = -np.inf
            weights = np.exp(scores - scores.max())
            out[i, s] = (weights / weights.sum()) @ v[:, s]
    return out


def test_attention_is_the_formula():
    torch.manual_seed(0)
    x, context = torch.randn(1, 5, 8), torch.randn(1, 4, 8)
    cross, own = CrossAttention(8, 2), SelfAttention(8, 2)
    mask = torch.tensor([[True, True, False, True]] * 5)
    with torch.no_grad():
        q, kv = cross.q(x)[0].numpy(), cross.kv(context)[0].numpy()
        slow = slow_attention(q, kv[:, :8], kv[:, 8:], 2, mask.numpy())
        expected = cross.proj(torch.from_numpy(slow))
        torch.testing.assert_close(cross(x, context, mask[None, None])[0], expected)
        qkv = own.qkv(x)[0].numpy()
        causal = np.tril(np.ones((5, 5), dtype=bool))
        slow = slow_attention(qkv[:, :8], qkv[:, 8:16], qkv[:, 16:], 2, causal)
        expected = own.proj(torch.from_numpy(slow))
        torch.testing.assert_close(own(x, torch.from_numpy(causal)[None, None])[0], expected)


def test_padding_mask_marks_real_keys():
    assert padding_mask(torch.tensor([0, 2]), 3)[:, 0, 0].tolist() == [
        [False] * 3,
        [True, True, False],
    ]


def test_positions_depend_on_the_ground_not_on_the_pixel_size():
    fine = grid_positions(4, 4, 80, 16)
    coarse = grid_positions(2, 2, 160, 16)
    between = sincos(torch.tensor([160 / 2 / METRES_PER_UNIT]), 8)
    torch.testing.assert_close(coarse[0], torch.cat([between[0], between[0]]))
    assert not torch.allclose(fine[0], coarse[0])


def test_scores_agree_with_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    torch.manual_seed(0)
    truth, guess = torch.randint(0, 4, (500,)), torch.randint(0, 4, (500,))
    confusion = torch.bincount(truth * 4 + guess, minlength=16).view(4, 4)
    expected = MulticlassJaccardIndex(4, average="macro")(guess, truth)
    assert miou(confusion) == pytest.approx(float(expected), rel=1e-5)
    expected = MulticlassAccuracy(4, average="micro")(guess, truth)
    assert accuracy(confusion) == pytest.approx(float(expected), rel=1e-5)


def test_a_class_that_is_absent_from_the_truth_is_not_averaged():
    confusion = torch.tensor([[8, 0, 2], [0, 0, 0], [0, 0, 5]])
    assert miou(confusion) == pytest.approx((8 / 10 + 5 / 7) / 2)


def test_perplexity_of_equally_used_codes_is_their_number():
    usage = code_usage(torch.tensor([5, 5, 0, 5, 5]))
    assert usage["codes_used"] == pytest.approx(0.8)
    assert usage["perplexity"] == pytest.approx(4.0)


def test_attention_prefers_what_is_near_on_the_ground_and_ignores_what_has_no_place():
    slopes = head_slopes(4)
    assert slopes.tolist() == [2.0, 0.5, 0.125, 0.0]
    centres = torch.cat([grid_centres(2, 2, 80), torch.full((1, 2), torch.nan)])[None]
    bias = distance_bias(centres, centres, slopes)
    step = 80 / METRES_PER_UNIT
    assert bias.shape == (1, 4, 5, 5)
    assert bias[0, 0, 0].tolist() == [0, -2 * step, -2 * step, -4 * step, 0]
    assert (bias[0, 3] == 0).all()
    assert (bias[0, :, 4] == 0).all()
