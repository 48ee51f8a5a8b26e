"""Our networks with TerraMind's weights against the public modules."""

from typing import Any

import pytest
import torch

from configs.registry import modality
from pipeline.stage1.decoders.noise import NoiseSchedule
from pipeline.stage1.decoders.sampling import ddim_step, trailing_steps
from pipeline.stage1.decoders.unet import UNet
from pipeline.stage1.terramind import import_tokenizer, load_into
from pipeline.stage1.tokenizer import Tokenizer
from tests.extra.conftest import RunPublic

pytestmark = pytest.mark.terratorch

UNET = "decoder.net.network."


@pytest.fixture(scope="module")
def public(run_public: RunPublic) -> dict[str, Any]:
    """What `public_terramind.py` wrote."""
    return run_public("public_terramind.py")


def unet_of(state: dict[str, torch.Tensor]) -> tuple[UNet, NoiseSchedule]:
    imported = import_tokenizer(state)
    config = imported.config.diffusion
    net = UNet(config, imported.config.latent_width, num_channels=2)
    own = {k: v for k, v in imported.weights.items() if k.startswith(UNET)}
    net.load_state_dict({k.removeprefix(UNET): v for k, v in own.items()}, strict=True)
    schedule = NoiseSchedule(
        config.schedule, config.num_noise_steps, config.prediction, config.zero_terminal_snr
    )
    return net, schedule


@pytest.mark.parametrize("side", [256, 224])
@torch.no_grad()
def test_the_unet_says_the_same(public, side):
    case = public[f"diffusion{side}"]
    net, _ = unet_of(case["state"])
    output = net(case["noisy"], case["steps"], case["quantized"])
    torch.testing.assert_close(output, case["output"], atol=1e-5, rtol=1e-5)
    assert output.std() > 0.1


@torch.no_grad()
def test_sampling_takes_the_same_path(public):
    case = public["diffusion224"]
    net, schedule = unet_of(case["state"])
    alpha_bar = torch.tensor([schedule.alpha_bar(t) for t in range(1000)])
    torch.testing.assert_close(alpha_bar, case["alphas_cumprod"], atol=1e-6, rtol=0)
    x, steps = case["noisy"], trailing_steps(1000, 4)
    for expected, step, to in zip(case["path"], steps, [*steps[1:], -1], strict=True):
        at = torch.full((len(x),), step)
        x0, eps = schedule.x0_and_eps(x, at, net(x, at, case["quantized"]))
        x = ddim_step(schedule, x0, eps, to)
        torch.testing.assert_close(x, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["S2L2A", "DEM", "LULC"])
def test_the_released_shapes_are_known(public, name):
    shapes = public["released"][name]
    state = {k: torch.zeros(1).expand(shape) for k, shape in shapes.items()}
    state |= positions(public, shapes)
    imported = import_tokenizer(state)
    config = imported.config
    assert len(imported.report.loaded) + len(imported.report.computed) == len(shapes)
    assert (config.width, config.encoder_depth, config.heads) == (768, 12, 12)
    assert (config.patch_px, config.crop_px, config.mlp_ratio) == (16, 256, 4.0)
    assert config.vocab_size == (4375 if name == "LULC" else 15360)
    if name == "LULC":
        assert (config.decoder, config.decoder_depth) == ("vit", 12)
        return
    diffusion = config.diffusion
    assert (diffusion.width, diffusion.patch_px, diffusion.blocks_per_level) == (256, 4, 3)
    assert diffusion.multipliers == (1, 2, 2, 2)
    assert diffusion.attention == (False, False, True, True)
    with torch.device("meta"):
        net = UNet(diffusion, 5, modality(name).num_bands)
    own = {k.removeprefix(UNET): v for k, v in imported.weights.items() if k.startswith(UNET)}
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in own.items()}


def positions(public: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The tables of the released width, made as terratorch made those of the small models."""
    small = public["diffusion256"]["state"]["encoder.pos_emb"]
    width = shapes["encoder.pos_emb"][1]
    rates = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    axis = torch.arange(16.0, dtype=torch.float64)[:, None] * rates
    codes = torch.cat([axis.sin(), axis.cos()], dim=1).T
    table = torch.cat(
        [codes[:, :, None].expand(-1, -1, 16), codes[:, None].expand(-1, 16, -1)]
    ).float()
    # Slowest and fastest frequencies do not depend on the width.
    torch.testing.assert_close(table[0], small[0, 0], atol=1e-5, rtol=0)
    return {k: table[None] for k in shapes if k.endswith("pos_emb")}


@pytest.mark.parametrize("side", [256, 224])
@pytest.mark.parametrize(("case", "name"), [("diffusion", "S1GRD"), ("classes", "LULC")])
@torch.no_grad()
def test_codes_are_the_same(public, case, name, side):
    found = public[f"{case}{side}"]
    imported = import_tokenizer(found["state"])
    model = Tokenizer(modality(name), imported.config, side).eval()
    load_into(model, imported)
    latents = found["latents"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.encoder(found["x"]), latents, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.tokenize(found["x"]), found["codes"].flatten(1).long())
    if case == "classes":
        decoded = model.decode(found["codes"].flatten(1).long())
        torch.testing.assert_close(decoded, found["output"], atol=1e-5, rtol=1e-5)
