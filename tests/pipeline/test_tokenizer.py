"""The tokenizer of a modality: masks, classes, artifacts."""

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.registry import BandStatistics, modality
from configs.schema import TokenizerConfig
from pipeline.engine.errors import RunError
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.tokenizer import Tokenizer

CONFIG = TokenizerConfig(
    patch_px=4, width=16, heads=2, encoder_depth=1, decoder_depth=1, levels=(4, 4), loss="l1"
)
STATISTICS = BandStatistics((500.0,), (300.0,))


def make(name: str) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(modality(name), CONFIG, 8).eval()


def test_pixels_without_a_measurement_do_not_count():
    model = make("DEM")
    x, valid = torch.randn(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, :4] = False
    prediction = torch.randn(2, 1, 8, 8)
    loss = model.pixel_loss(prediction, x, valid)
    expected = (prediction - x)[0, 0, 4:].abs().mean()
    torch.testing.assert_close(loss[0], expected)
    x[0, 0, :4] = 1e6
    torch.testing.assert_close(model.pixel_loss(prediction, x, valid)[0], expected)
    assert model.pixel_loss(prediction, x, torch.zeros_like(valid)).tolist() == [0, 0]


def test_class_loss_is_cross_entropy_over_valid_pixels():
    model = make("LULC")
    x = torch.randint(1, 10, (1, 1, 8, 8), dtype=torch.uint8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, 0] = False
    logits = torch.randn(1, 10, 8, 8)
    flat = logits[0].permute(1, 2, 0)[valid[0]]
    expected = torch.nn.functional.cross_entropy(flat, x[0, 0][valid[0]].long())
    torch.testing.assert_close(model.pixel_loss(logits, x, valid)[0], expected)


@pytest.mark.parametrize("name", ["DEM", "LULC", "S2L2A"])
def test_decoding_codes_is_reconstructing(name):
    model = make(name)
    row = modality(name)
    x = torch.randn(2, row.num_bands, 8, 8)
    if name == "LULC":
        x = torch.randint(0, 10, (2, 1, 8, 8), dtype=torch.uint8)
    codes = model.tokenize(x)
    assert codes.shape == (2, 4)
    torch.testing.assert_close(model.decode(codes), model.reconstruct(x))


def test_a_step_moves_every_parameter():
    model = make("S2L2A").train()
    batch = {"x": torch.randn(2, 12, 8, 8), "valid": torch.ones(2, 8, 8, dtype=torch.bool)}
    model(batch).loss.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_artifact_gives_the_same_codes_and_is_refused_when_damaged(tmp_path):
    tokenizer = ImageTokenizer(make("DEM"), modality("DEM"), STATISTICS)
    maps = np.random.default_rng(0).integers(0, 1000, (3, 1, 8, 8)).astype(np.int16)
    tokenizer.save(tmp_path / "artifact")
    again = ImageTokenizer.from_pretrained(tmp_path / "artifact")
    np.testing.assert_array_equal(again.tokenize(maps), tokenizer.tokenize(maps))
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
        Tokenizer(modality("DEM"), CONFIG, 10)
