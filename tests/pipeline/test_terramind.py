"""Importing a published tokenizer: its configuration, its layout, and what is refused.

Numbers are compared with the public modules in tests/extra.
"""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.__main__ import main
from pipeline.engine.errors import RunError
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.decoders.unet import UNet
from pipeline.stage1.terramind import import_tokenizer, load_into, read_tokenizer

WIDTH, BANDS, CHANNELS = 64, 3, 32


def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def vit(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """One block, and the MLP behind it."""
    yield f"{name}.pos_emb", (1, WIDTH, 16, 16)
    yield from layer(f"{name}.blocks.0.norm1", WIDTH)
    yield from layer(f"{name}.blocks.0.attn.qkv", 3 * WIDTH, WIDTH)
    yield from layer(f"{name}.blocks.0.attn.proj", WIDTH, WIDTH)
    yield from layer(f"{name}.blocks.0.norm2", WIDTH)
    yield from layer(f"{name}.norm_mlp", WIDTH)
    for mlp in (f"{name}.blocks.0.mlp", f"{name}.post_mlp"):
        yield from layer(f"{mlp}.fc1", 4 * WIDTH, WIDTH)
        yield from layer(f"{mlp}.fc2", WIDTH, 4 * WIDTH)


def residual(name: str, channels: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from layer(f"{name}.in_layers.0", channels)
    yield from layer(f"{name}.in_layers.2", out, channels, 3, 3)
    yield from layer(f"{name}.emb_layers.1", out, 4 * CHANNELS)
    yield from layer(f"{name}.out_layers.0", out)
    yield from layer(f"{name}.out_layers.3", out, out, 3, 3)
    if channels != out:
        yield from layer(f"{name}.skip_connection", out, channels, 1, 1)


def attention(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from layer(f"{name}.norm", channels)
    yield from layer(f"{name}.qkv", 3 * channels, channels, 1)
    yield from layer(f"{name}.proj_out", channels, channels, 1)


def unet() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Two levels of one block, the lower one with attention: 32 and 64 channels, patches of 4 px."""
    a, b, patch = CHANNELS, 2 * CHANNELS, 16 * BANDS
    yield from layer("decoder.time_embed.0", 4 * a, a)
    yield from layer("decoder.time_embed.2", 4 * a, 4 * a)
    yield from layer("decoder.input_blocks.0.0", a, patch + 5, 3, 3)
    yield from residual("decoder.input_blocks.1.0", a, a)
    yield from layer("decoder.input_blocks.2.0.op", a, a, 3, 3)
    yield from residual("decoder.input_blocks.3.0", a, b)
    yield from attention("decoder.input_blocks.3.1", b)
    yield from residual("decoder.middle_block.0", b, b)
    yield from attention("decoder.middle_block.1", b)
    yield from residual("decoder.middle_block.2", b, b)
    yield from residual("decoder.output_blocks.0.0", b + b, b)
    yield from attention("decoder.output_blocks.0.1", b)
    yield from residual("decoder.output_blocks.1.0", b + a, b)
    yield from attention("decoder.output_blocks.1.1", b)
    yield from layer("decoder.output_blocks.1.2.conv", b, b, 3, 3)
    yield from residual("decoder.output_blocks.2.0", b + a, a)
    yield from residual("decoder.output_blocks.3.0", a + a, a)
    yield from layer("decoder.out.0", a)
    yield from layer("decoder.out.2", patch, a, 3, 3)


def table() -> Tensor:
    """Sines and cosines of the row's number, then of the column's: [1, D, 16, 16]."""
    found = torch.empty(1, WIDTH, 16, 16, dtype=torch.float64)
    for k in range(WIDTH // 4):
        angles = torch.arange(16, dtype=torch.float64) / 10_000 ** (k / (WIDTH // 4))
        quarter = WIDTH // 4
        found[0, k], found[0, k + quarter] = angles.sin()[:, None], angles.cos()[:, None]
        found[0, k + 2 * quarter], found[0, k + 3 * quarter] = angles.sin(), angles.cos()
    return found.float()


def published(decoder: str) -> dict[str, Tensor]:
    shapes = dict(layer("encoder.proj", WIDTH, BANDS, 16, 16))
    shapes |= dict(vit("encoder")) | dict(layer("quant_proj", 5, WIDTH, 1, 1))
    if decoder == "diffusion":
        shapes |= dict(unet())
    else:
        shapes |= dict(layer("post_quant_proj", WIDTH, 5, 1, 1)) | dict(vit("decoder"))
        shapes |= dict(layer("decoder.out_proj", BANDS * 256, WIDTH))
    generator = torch.Generator().manual_seed(0)
    made = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    return {k: table() if k.endswith("pos_emb") else v for k, v in made.items()}


def test_a_diffusion_tokenizer_tells_its_shape_and_fills_our_unet():
    state = published("diffusion")
    imported = import_tokenizer(state)
    config = imported.config
    assert (config.width, config.heads, config.encoder_depth) == (WIDTH, 1, 1)
    assert (config.patch_px, config.crop_px, config.decoder) == (16, 256, "diffusion")
    assert (config.fsq.levels, config.fsq.convention) == ((8, 8, 8, 6, 5), "unit")
    assert config.diffusion.multipliers == (1, 2)
    assert config.diffusion.attention == (False, True)
    assert (config.diffusion.blocks_per_level, config.diffusion.patch_px) == (1, 4)
    assert config.diffusion.heads == 1
    stem = "decoder.net.network."
    own = {k.removeprefix(stem): v for k, v in imported.weights.items() if k.startswith(stem)}
    UNet(config.diffusion, 5, BANDS).load_state_dict(own, strict=True)
    assert len(imported.report.loaded) == len(state) - 1
    assert imported.report.computed == ("encoder.pos_emb",)


def test_weights_keep_what_they_do():
    state = published("vit")
    weights = import_tokenizer(state).weights
    x, h = torch.randn(1, BANDS, 16, 16), torch.randn(WIDTH)
    conv = torch.nn.functional.conv2d(x, state["encoder.proj.weight"]).flatten()
    rows = x[0].permute(1, 2, 0).flatten()
    linear = weights["encoder.embed_input.proj.weight"] @ rows
    torch.testing.assert_close(linear, conv, atol=1e-4, rtol=1e-4)
    theirs = (state["decoder.out_proj.weight"] @ h + state["decoder.out_proj.bias"]).reshape(
        BANDS, 16, 16
    )
    ours = weights["decoder.net.to_pixels.weight"] @ h + weights["decoder.net.to_pixels.bias"]
    torch.testing.assert_close(ours.reshape(16, 16, BANDS).permute(2, 0, 1), theirs)


def test_a_class_tokenizer_has_a_channel_for_each_class():
    imported = import_tokenizer(published("vit"))
    assert (imported.config.decoder, imported.config.decoder_depth) == ("vit", 1)
    assert imported.config.vocab_size == 7 * 5**4
    embed = imported.weights["encoder.embed_input.class_embed.weight"]
    assert torch.equal(embed, torch.eye(BANDS))


def test_what_does_not_fit_is_named():
    state = published("diffusion")
    lost = state.pop("decoder.middle_block.0.in_layers.2.bias")
    with pytest.raises(RunError, match=r"missing: decoder\.middle_block\.0\.in_layers\.2\.bias$"):
        import_tokenizer(state)
    state = published("diffusion") | {"decoder.label_emb.weight": lost}
    with pytest.raises(RunError, match=r"unexpected: decoder\.label_emb\.weight$"):
        import_tokenizer(state)
    with pytest.raises(RunError, match=r"it has no encoder\.proj\.weight"):
        import_tokenizer({"layer.weight": lost})


@pytest.mark.parametrize("change", ["values", "side"])
def test_learned_positions_are_refused(change):
    state = published("vit")
    grid = state["decoder.pos_emb"]
    state["decoder.pos_emb"] = grid + 0.1 if change == "values" else grid[:, :, :14, :14]
    with pytest.raises(RunError, match=re.escape("decoder.pos_emb is not the table")):
        import_tokenizer(state)


def test_other_quantizers_are_refused():
    state = published("vit") | dict.fromkeys(["quant_proj.weight"], torch.zeros(32, WIDTH, 1, 1))
    with pytest.raises(RunError, match="latents are 32 wide"):
        import_tokenizer(state)


def test_a_module_of_another_shape_is_left_alone():
    imported = import_tokenizer(published("vit"))
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(8)})})
    with pytest.raises(RunError, match=r"encoder\.norm\.bias is \(8,\), not \(64,\)") as caught:
        load_into(model, imported)
    assert "encoder.to_latent.bias has no place" in str(caught.value)
    assert not any(p.sum() not in (0, 8) for p in model.parameters())


def test_a_file_is_read(tmp_path):
    torch.save(published("vit"), tmp_path / "TerraMind_Tokenizer_LULC.pt")
    imported = read_tokenizer(tmp_path / "TerraMind_Tokenizer_LULC.pt")
    assert "computed" in str(imported.report)
    with pytest.raises(RunError, match="is missing"):
        read_tokenizer(tmp_path / "nothing.pt")


def test_a_file_becomes_an_artifact_from_the_command_line(tmp_path, capsys):
    torch.save(published("diffusion"), tmp_path / "RGB.pt")
    argv = ["import-tokenizer", str(tmp_path / "RGB.pt"), "--modality", "S2RGB"]
    argv += ["--out", str(tmp_path / "out"), "--crop", "32"]
    assert main(argv) == 0
    assert "tensors loaded" in capsys.readouterr().out
    tokenizer = ImageTokenizer.from_pretrained(tmp_path / "out" / "artifact")
    maps = np.random.default_rng(0).integers(0, 255, (2, 3, 32, 32)).astype(np.uint8)
    codes = tokenizer.tokenize(maps)
    assert codes.shape == (2, tokenizer.model.grid[0] ** 2)
    assert tokenizer.decode(torch.from_numpy(codes)).shape == maps.shape
    assert main(argv) == 2
    assert "exists; remove it" in capsys.readouterr().err
    other = [*argv[:2], "--modality", "S1GRD", "--out", str(tmp_path / "other"), "--crop", "32"]
    assert main(other) == 2
    assert "do not fit this tokenizer" in capsys.readouterr().err
