"""The diffusion decoder with both of its networks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import DiffusionConfig
from pipeline.stage1.decoders.diffusion import DiffusionDecoder
from pipeline.stage1.decoders.sampling import noise_like, split, uniform
from pipeline.stage1.decoders.uvit import UViT

UNET: dict[str, Any] = {
    "network": "unet",
    "width": 8,
    "multipliers": (1, 2),
    "attention": (False, True),
    "blocks_per_level": 1,
    "heads": 2,
    "sample_steps": 3,
}
UVIT: dict[str, Any] = {
    "network": "uvit",
    "width": 16,
    "depth": 4,
    "heads": 2,
    "sample_steps": 3,
}
BOTH = pytest.mark.parametrize("shape", [UNET, UVIT], ids=["unet", "uvit"])


def make(shape: dict[str, Any], **options: Any) -> DiffusionDecoder:
    torch.manual_seed(0)
    return DiffusionDecoder(DiffusionConfig(**{**shape, **options}), 3, 2, patch=8)


def shaken(model: DiffusionDecoder) -> DiffusionDecoder:
    """With no weight at zero, as some start: an untrained U-Net says 0 to everything."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def batch(count: int = 4, side: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(count, (side // 8) ** 2, 3, generator=generator)
    x = torch.randn(count, 2, side, side, generator=generator)
    return z, x, torch.ones(count, side, side, dtype=torch.bool), torch.arange(count) + 100


@BOTH
@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_the_loss_of_a_sample_does_not_depend_on_the_cut_of_the_batch(shape, prediction):
    model = shaken(make(shape, condition_dropout=0.5, prediction=prediction))
    z, x, valid, seeds = batch()
    whole = model(z, x, valid, seeds)
    parts = [model(z[i], x[i], valid[i], seeds[i]) for i in ([0], [3, 1], [2])]
    torch.testing.assert_close(torch.cat(parts), whole[[0, 3, 1, 2]], atol=1e-5, rtol=1e-5)
    assert whole.unique().numel() == 4


@BOTH
def test_the_loss_is_the_square_error_of_the_target_at_the_seeds_step(shape):
    model = shaken(make(shape, prediction="v"))
    z, x, valid, seeds = batch(2)
    t = (uniform(seeds, 0) * 1000).long()
    noise = noise_like((2, 16, 16), split(seeds, 2), x.device)
    alpha, sigma = model.schedule.alpha[t], model.schedule.sigma[t]
    for i in range(2):
        noisy = alpha[i] * x[i] + sigma[i] * noise[i]
        grid = z[i : i + 1].transpose(1, 2).reshape(1, 3, 2, 2)
        output = model.network(noisy[None], t[i : i + 1], grid)[0]
        expected = (output - (alpha[i] * noise[i] - sigma[i] * x[i])).square().mean()
        torch.testing.assert_close(model(z, x, valid, seeds)[i], expected)


@BOTH
@pytest.mark.parametrize("dropout", [0.0, 1e-9, 1 - 1e-9], ids=["never", "kept", "dropped"])
def test_every_parameter_takes_part_whatever_is_dropped(shape, dropout):
    model = shaken(make(shape, condition_dropout=dropout))
    z, x, valid, seeds = batch()
    z.requires_grad_()
    model(z, x, valid, seeds).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    silent = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert silent == ({"condition.null"} if dropout == 1e-9 else set())
    assert z.grad is not None
    assert z.grad.any() == (dropout < 0.5)


@BOTH
def test_pixels_without_a_measurement_neither_count_nor_show(shape):
    model = shaken(make(shape))
    z, x, valid, seeds = batch(2)
    valid[0, :5] = False
    valid[1] = False
    before = model(z, x, valid, seeds)
    x[0, :, :5] = torch.nan
    x[1] = 1e9
    after = model(z, x, valid, seeds)
    assert torch.equal(before, after)
    assert after[1] == 0
    assert after[0] > 0


@BOTH
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_images_of_any_size_are_decoded_by_their_seeds(shape, sampler):
    model = shaken(make(shape, sampler=sampler, condition_dropout=0.1, guidance=2.0))
    for rows, columns in [(2, 2), (3, 1)]:
        torch.manual_seed(3)
        z, seeds = torch.randn(3, rows * columns, 3), torch.tensor([5, 6, 5])
        z[2] = z[0]
        size = (8 * rows, 8 * columns)
        images = model.decode(z, seeds, size)
        assert images.shape == (3, 2, *size)
        assert images.dtype == torch.float32
        torch.testing.assert_close(images[2], images[0], atol=1e-5, rtol=1e-5)
        alone = model.decode(z[1:2], seeds[1:2], size)
        torch.testing.assert_close(alone[0], images[1], atol=1e-3, rtol=1e-3)
        assert (images[1] - images[0]).abs().max() > 0.1


def test_guidance_of_zero_forgets_the_latents():
    z, _, _, seeds = batch(2)
    seeds = seeds[[0, 0]]
    for guidance, alike in [(0.0, True), (1.0, False)]:
        model = shaken(make(UNET, condition_dropout=0.1, guidance=guidance))
        images = model.decode(z, seeds, (16, 16))
        assert torch.allclose(images[0], images[1], atol=1e-5) == alike


@BOTH
def test_a_bfloat16_module_keeps_its_schedule(shape):
    model = shaken(make(shape, condition_dropout=0.1)).bfloat16()
    assert model.schedule.alpha.dtype == torch.float32
    z, x, valid, seeds = batch(2)
    loss = model(z.bfloat16(), x.bfloat16(), valid, seeds)
    assert loss.dtype == torch.float32
    assert model.network(x, seeds, z.transpose(1, 2).reshape(2, 3, 2, 2)).dtype == torch.float32
    torch.testing.assert_close(loss, model.float()(z, x, valid, seeds), rtol=0.1, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(z, x, valid, seeds).dtype == torch.float32
        assert model.decode(z, seeds, (16, 16)).dtype == torch.float32


@pytest.mark.parametrize(("shape", "steps"), [(UNET, 50), (UVIT, 250)], ids=["unet", "uvit"])
def test_one_image_is_learnt_by_heart(shape, steps):
    model = make({**shape, "sample_steps": 10})
    across = torch.linspace(-1, 1, 16)
    x = torch.stack([across.expand(16, 16), (6 * across[:, None] * across).sin()])[None]
    z, valid = torch.ones(1, 4, 3), torch.ones(1, 16, 16, dtype=torch.bool)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.zero_grad()
        batch = (z.expand(4, -1, -1), x.expand(4, -1, -1, -1), valid.expand(4, -1, -1))
        model(*batch, torch.arange(4) + 4 * step).mean().backward()
        optimizer.step()
    error = (model.decode(z, torch.tensor([7]), (16, 16)) - x).square().mean()
    assert error < 0.05 * x.var()


@BOTH
def test_latents_lie_under_the_patches_that_they_stand_for(shape):
    model = make(shape)
    entry = model.network.from_latent if isinstance(model.network, UViT) else model.network.stem
    seen: list[Tensor] = []
    entry.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = torch.arange(18.0).reshape(1, 6, 3)
    model(z, torch.zeros(1, 2, 16, 24), torch.ones(1, 16, 24, dtype=torch.bool), torch.tensor([0]))
    rows = isinstance(model.network, UViT)
    under = seen[0].reshape(4, 6, 3) if rows else seen[0][0, -3:].permute(1, 2, 0)
    for row in range(4):
        for column in range(6):
            assert torch.equal(under[row, column], z[0, 3 * (row // 2) + column // 2])


def test_long_skips_join_blocks_with_their_mirror_images():
    network = make(UVIT, depth=6).network
    assert isinstance(network, UViT)
    assert [len(part) for part in (network.first, network.middle, network.second)] == [2, 2, 2]
    left: list[Tensor] = []
    taken: list[Tensor] = []

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        left.append(output)

    for block in network.first:
        block.register_forward_hook(leave)
    for block in network.second:
        block.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[1]))
    network(torch.ones(1, 2, 16, 16), torch.tensor([3]), torch.ones(1, 3, 2, 2))
    assert torch.equal(taken[0], left[1])
    assert torch.equal(taken[1], left[0])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"diffusion\.patch_px is 3"):
        make(UNET, patch_px=3)
    with pytest.raises(ConfigError, match=r"diffusion\.heads is 3, and must divide the 16"):
        make(UNET, heads=3)
    with pytest.raises(ConfigError, match="multiple of 4"):
        make(UVIT, width=18)
