"""The perceptual loss: a frozen network that nobody but its loss knows."""

import copy

import pytest
import torch
from torch import nn

from configs.registry import BandStatistics, modality
from configs.schema import PixelLossConfig
from pipeline.stage1.encoder import Encoder, PixelInput
from pipeline.stage1.grids import GridPositions
from pipeline.stage1.losses import ReconstructionLoss
from pipeline.stage1.losses.perceptual import PerceptualLoss

WIDTH, PATCH, SIDE = 16, 4, 3


def make_encoder(depth: int = 2) -> Encoder:
    torch.manual_seed(0)
    positions = GridPositions((SIDE,), 40.0, WIDTH)
    return Encoder(PixelInput(3, PATCH, WIDTH), positions, depth, 2, 2.0, 5)


def images(b: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    shape = (b, 3, PATCH * SIDE, PATCH * SIDE)
    valid = torch.rand(b, *shape[2:], generator=rng) > 0.2
    return torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), valid


def test_it_is_one_minus_the_cosine_of_what_the_blocks_give():
    encoder, (prediction, x, valid) = make_encoder(), images()
    found = PerceptualLoss(encoder)(prediction, x, valid)
    seen = torch.where(valid[:, None], prediction, x)
    apart = []
    with torch.no_grad():
        pair = [
            encoder.embed_input(v) + encoder.positions(encoder.embed_input(v)) for v in (seen, x)
        ]
        for block in encoder.blocks:
            pair = [block(h) for h in pair]
            a, b = pair
            cosine = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
            apart.append((1 - cosine).mean(1))
    torch.testing.assert_close(found, torch.stack(apart).mean(0))


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, [0]), (3, [0, 1, 2]), (6, [1, 2, 4, 5]), (12, [2, 5, 8, 11])]
)
def test_depths_are_evenly_spread_and_include_the_last(depth, expected):
    assert PerceptualLoss(make_encoder(depth)).depths == expected


def test_the_gradient_reaches_valid_pixels_and_no_weight():
    loss, (prediction, x, valid) = PerceptualLoss(make_encoder()), images()
    prediction.requires_grad_()
    loss(prediction, x, valid).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert not prediction.grad[~valid[:, None].expand_as(prediction)].any()
    assert prediction.grad[valid[:, None].expand_as(prediction)].abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.encoder.parameters())
    prediction, x, valid = images(40)
    assert loss(prediction, x, torch.zeros_like(valid)).tolist() == [0] * 40


def test_the_network_is_no_part_of_the_model_that_learns_from_it():
    model = nn.Sequential(nn.Linear(2, 2), PerceptualLoss(make_encoder()))
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
    assert len(list(model.parameters())) == 2
    assert not any(isinstance(m, Encoder) for m in model.modules())
    model.train()
    loss = model[1]
    assert isinstance(loss, PerceptualLoss)
    assert not loss.encoder.training


def test_it_follows_casts_and_moves_and_copies():
    loss, (prediction, x, valid) = PerceptualLoss(make_encoder()), images()
    expected = loss(prediction, x, valid)
    twin = copy.deepcopy(nn.Sequential(loss))[0]
    assert isinstance(twin, PerceptualLoss)
    assert twin.encoder is not loss.encoder
    torch.testing.assert_close(twin(prediction, x, valid), expected)
    nn.Sequential(loss).bfloat16()
    assert loss.encoder.to_latent.weight.dtype == torch.bfloat16
    found = loss(prediction.bfloat16(), x, valid)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)
    nn.Sequential(loss).to("meta")
    assert loss.encoder.to_latent.weight.device.type == "meta"


def test_it_counts_by_its_weight_and_ignores_invalid_pixels():
    row, statistics = modality("S2RGB"), BandStatistics((0.0,) * 3, (1.0,) * 3)
    config = PixelLossConfig.model_validate({"perceptual": 0.5, "perceptual_network": "trained"})
    total = ReconstructionLoss(config, row, statistics, make_encoder())
    plain = ReconstructionLoss(PixelLossConfig(), row, statistics)
    prediction, x, valid = images()
    x = torch.where(valid[:, None], x, 0.0)
    before = total(prediction, x, valid)
    extra = 0.5 * PerceptualLoss(make_encoder())(prediction, x, valid)
    torch.testing.assert_close(before, plain(prediction, x, valid) + extra)
    prediction = torch.where(valid[:, None], prediction, torch.nan)
    torch.testing.assert_close(total(prediction, x, valid), before, rtol=0, atol=0)
    alone = torch.cat([total(prediction[i, None], x[i, None], valid[i, None]) for i in range(3)])
    torch.testing.assert_close(alone, before)
