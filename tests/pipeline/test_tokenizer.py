"""The tokenizer of a modality: masks, classes, artifacts."""

from typing import Any

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.registry import BandStatistics, modality
from configs.schema import TokenizerConfig
from pipeline.data.loader import Batch
from pipeline.engine.errors import RunError
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.tokenizer import Teaching, Tokenizer

SMALL: dict[str, Any] = {
    "patch_px": 4,
    "width": 16,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "fsq": {"levels": (4, 4)},
    "vq": {"num_codes": 16, "latent_width": 4},
    "gan": {"width": 8, "depth": 1, "start_step": 0},
    "diffusion": {
        "width": 8,
        "multipliers": (1,),
        "attention": (True,),
        "blocks_per_level": 1,
        "heads": 2,
        "sample_steps": 2,
    },
}
ARMS = [(q, d) for q in ("fsq", "vq") for d in ("vit", "gan", "diffusion")]
STATISTICS = BandStatistics((500.0,), (300.0,))


def make(name: str, quantizer: str = "fsq", decoder: str = "vit", **changes: Any) -> Tokenizer:
    torch.manual_seed(0)
    row = modality(name)
    config = {**SMALL, "quantizer": quantizer, "decoder": decoder, **changes}
    teaching = Teaching(BandStatistics((0.0,) * row.num_bands, (1.0,) * row.num_bands), 2)
    return Tokenizer(row, TokenizerConfig.model_validate(config), 8, teaching).eval()


def some(name: str, num: int = 2, size: int = 8) -> Batch:
    row = modality(name)
    x = torch.randn(num, row.num_bands, size, size)
    if row.kind == "classes":
        x = torch.randint(1, row.num_classes, x.shape, dtype=torch.uint8)
    valid = torch.ones(num, size, size, dtype=torch.bool)
    valid[0, 0] = False
    return {"x": x, "valid": valid, "seed": torch.arange(num)}


@pytest.mark.parametrize("name", ["DEM", "LULC", "LULCchange", "S2L2A"])
@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
def test_codes_are_decoded_to_windows(name: str, quantizer: str, decoder: str):
    model, batch = make(name, quantizer, decoder), some(name)
    codes = model.tokenize(batch["x"])
    assert codes.shape == (2, 4)
    assert codes.max() < model.quantizer.num_codes
    decoded = model.decode(codes, batch["seed"])
    latents = model.encode(batch["x"])
    torch.testing.assert_close(decoded, model.decoder.decode(latents, batch["seed"]))
    certain = torch.nn.functional.one_hot(codes, model.quantizer.num_codes).float()
    torch.testing.assert_close(model.decode_expected(certain, batch["seed"]), decoded)
    maps = model.maps(decoded) if model.is_classes else decoded
    assert maps.shape == batch["x"].shape


@pytest.mark.parametrize("name", ["LULCchange", "S2L2A"])
@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
def test_a_step_moves_every_parameter(name: str, quantizer: str, decoder: str):
    model = make(name, quantizer, decoder).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    # Layers that end a residual branch may start at zero, and hide those before them for a step.
    for _ in range(3):
        optimizer.zero_grad()
        output = model(some(name))
        output.loss.sum().backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    if model.critic is not None:
        judged = model.critic(dict(output.judged))
        judged.loss.sum().backward()
        # The last bias adds as much to what is measured as to what is made.
        moved = [p.grad is not None and bool(p.grad.any()) for p in model.critic.parameters()]
        assert all(moved[:-1])


@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
def test_losses_and_scores_do_not_depend_on_how_a_batch_is_cut(quantizer: str, decoder: str):
    model, batch = make("S2L2A", quantizer, decoder, decoder_depth=2), some("S2L2A", 4)
    whole = model(batch, evaluate=True)
    parts = [model({k: v[i : i + 1] for k, v in batch.items()}, evaluate=True) for i in range(4)]
    torch.testing.assert_close(torch.cat([p.loss for p in parts]), whole.loss)
    for name, value in whole.sums.items():
        torch.testing.assert_close(sum(p.sums[name] for p in parts), value, msg=name)


def test_what_is_not_measured_counts_nowhere():
    for decoder in ("vit", "gan", "diffusion"):
        model, batch = make("DEM", "fsq", decoder), some("DEM")
        z = model.encode(batch["x"])
        before = model.decoder.teach(z, batch, model.updates).loss
        batch["x"][0, :, 0] = 1e6
        torch.testing.assert_close(model.decoder.teach(z, batch, model.updates).loss, before)


def test_windows_of_several_sizes_go_through_one_tokenizer():
    model = make("DEM", crops_px=(8, 16))
    assert model.tokenize(some("DEM", size=16)["x"]).shape == (2, 16)
    assert model.decode(torch.zeros(2, 16, dtype=torch.int64)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
def test_an_artifact_gives_the_same_codes_and_is_refused_when_damaged(
    tmp_path, quantizer: str, decoder: str
):
    tokenizer = ImageTokenizer(make("DEM", quantizer, decoder), modality("DEM"), STATISTICS)
    maps = np.random.default_rng(0).integers(0, 1000, (3, 1, 8, 8)).astype(np.int16)
    tokenizer.save(tmp_path / "artifact")
    again = ImageTokenizer.from_pretrained(tmp_path / "artifact")
    codes = tokenizer.tokenize(maps)
    np.testing.assert_array_equal(again.tokenize(maps), codes)
    as_codes = torch.from_numpy(codes)
    np.testing.assert_array_equal(again.decode(as_codes), tokenizer.decode(as_codes))
    assert again.statistics == STATISTICS
    weights = tmp_path / "artifact" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(RunError, match="damaged"):
        ImageTokenizer.from_pretrained(tmp_path / "artifact")
    with pytest.raises(RunError, match="train it first"):
        ImageTokenizer.from_pretrained(tmp_path / "nowhere")


def test_a_decoded_class_map_never_claims_nodata():
    tokenizer = ImageTokenizer(make("LULC"), modality("LULC"), None)
    maps = tokenizer.decode(torch.arange(16).reshape(4, 4))
    assert maps.dtype == np.uint8
    assert maps.min() >= 1


def test_a_window_that_does_not_divide_into_patches_is_refused():
    with pytest.raises(ConfigError, match="does not divide"):
        make("DEM", patch_px=3)
