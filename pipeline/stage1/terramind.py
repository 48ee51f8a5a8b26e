"""TerraMind's tokenizers as ours: their weights under our names, and the configuration that fits.

Two forms were released: a ViT encoder with FSQ and a diffusion U-Net (S2L2A, S1GRD, S1RTC, DEM, NDVI), and
the same encoder with FSQ and a ViT decoder (LULC). Shapes are read from the weights; what weights cannot
tell (levels of FSQ, noise schedule) is as in the published training arguments of terratorch 1.2.

Shapes: D width, C bands or classes, p patch.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from configs.schema import DiffusionConfig, FSQConfig, TokenizerConfig
from pipeline.engine.errors import RunError
from pipeline.engine.foreign import ImportReport, fill, read_state
from pipeline.layers.positions import sincos

HEAD_WIDTH = 64
POSITION_SIDE = 16
"""Patches along a side of the grid on which positions are defined: 256 px windows."""

_LEVELS = {"diffusion": (8, 8, 8, 6, 5), "vit": (7, 5, 5, 5, 5)}


class Rule(NamedTuple):
    """Where a tensor goes, and how it is laid out there."""

    theirs: str
    ours: str
    convert: Callable[[Tensor], Tensor]


class Imported(NamedTuple):
    """A tokenizer's configuration, its weights under our names, and how they came about."""

    config: TokenizerConfig
    weights: dict[str, Tensor]
    report: ImportReport


def read_tokenizer(path: Path) -> Imported:
    """`import_tokenizer` of a published file, `TerraMind_Tokenizer_*.pt`."""
    return import_tokenizer(read_state(path, "download it from TerraMind's page of the modality"))


def import_tokenizer(state: Mapping[str, Tensor]) -> Imported:
    """A published state dict -> configuration and weights (float32) of our `Tokenizer`.

    Raises RunError with the report when a tensor is missing or has no place, or when positions are not
    the fixed ones.
    """
    config = _config(state)
    rules = [*_encoder_rules(config), *_decoder_rules(config, state)]
    computed = [k for k in ("encoder.pos_emb", "decoder.pos_emb") if k in state]
    known = {rule.theirs for rule in rules} | set(computed)
    report = ImportReport(
        {r.theirs: r.ours for r in rules if r.theirs in state},
        tuple(computed),
        tuple(r.theirs for r in rules if r.theirs not in state),
        tuple(k for k in state if k not in known),
    )
    if report.missing or report.unexpected:
        raise RunError(f"this is none of TerraMind's image tokenizers: {report}")
    for key in computed:
        _check_positions(key, state[key])
    weights = {r.ours: r.convert(state[r.theirs].float()).contiguous() for r in rules}
    weights["updates"] = torch.zeros((), dtype=torch.int64)
    if config.decoder == "vit":
        # Classes enter as one channel each: an embedding that is the identity.
        weights["encoder.embed_input.class_embed.weight"] = torch.eye(_num_channels(state))
    return Imported(config, weights, report)


def load_into(model: nn.Module, imported: Imported) -> None:
    """Fill a module of ours. Raises RunError naming all that does not fit before anything is changed."""
    fill(model, imported.weights, "TerraMind's weights do not fit this tokenizer")


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise RunError(f"this is none of TerraMind's image tokenizers: it has no {key}")
    return tuple(state[key].shape)


def _num_channels(state: Mapping[str, Tensor]) -> int:
    return _shape(state, "encoder.proj.weight")[1]


def _count(state: Mapping[str, Tensor], stem: str) -> int:
    """How many numbered modules there are below a name."""
    return len({k[len(stem) :].split(".")[0] for k in state if k.startswith(stem)})


def _config(state: Mapping[str, Tensor]) -> TokenizerConfig:
    width, _, patch, _ = _shape(state, "encoder.proj.weight")
    hidden = _shape(state, "encoder.post_mlp.fc1.weight")[0]
    latent_width = _shape(state, "quant_proj.weight")[0]
    decoder = "diffusion" if "decoder.time_embed.0.weight" in state else "vit"
    if latent_width != len(_LEVELS[decoder]):
        raise RunError(
            f"latents are {latent_width} wide, where TerraMind's {decoder} decoder knows FSQ of "
            f"{list(_LEVELS[decoder])}: only tokenizers with that quantizer can be imported"
        )
    shape = {
        "layout": "terramind",
        "patch_px": patch,
        "crop_px": POSITION_SIDE * patch,
        "width": width,
        "heads": width // HEAD_WIDTH,
        "encoder_depth": _count(state, "encoder.blocks."),
        "mlp_ratio": hidden / width,
        "quantizer": "fsq",
        "fsq": FSQConfig(levels=_LEVELS[decoder], convention="unit"),
        "decoder": decoder,
    }
    if decoder == "diffusion":
        shape["diffusion"] = _diffusion_config(state)
    else:
        shape["decoder_depth"] = _count(state, "decoder.blocks.")
    return TokenizerConfig.model_validate(shape)


def _diffusion_config(state: Mapping[str, Tensor]) -> DiffusionConfig:
    width = _shape(state, "decoder.time_embed.0.weight")[1]
    out_channels = _shape(state, "decoder.out.2.weight")[0]
    levels: list[list[tuple[int, bool]]] = [[]]
    for i in range(1, _count(state, "decoder.input_blocks.")):
        name = f"decoder.input_blocks.{i}"
        if f"{name}.0.op.weight" in state:
            levels.append([])
        else:
            channels = _shape(state, f"{name}.0.in_layers.2.weight")[0]
            levels[-1].append((channels // width, f"{name}.1.qkv.weight" in state))
    if any(len(set(level)) != 1 or len(level) != len(levels[0]) for level in levels):
        raise RunError(
            f"the U-Net has levels of unequal blocks, as no tokenizer of TerraMind: {levels}"
        )
    return DiffusionConfig(
        network="unet",
        patch_px=math.isqrt(out_channels // _num_channels(state)),
        width=width,
        multipliers=tuple(level[0][0] for level in levels),
        attention=tuple(level[0][1] for level in levels),
        blocks_per_level=len(levels[0]),
        heads=1,
        schedule="linear",
        zero_terminal_snr=True,
        num_noise_steps=1000,
        prediction="x0",
        sampler="ddim",
        sample_steps=50,
    )


def _same(x: Tensor) -> Tensor:
    return x


def _from_conv(x: Tensor) -> Tensor:
    """A convolution whose stride is its kernel as a linear layer on (row, column, band)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _layer(
    theirs: str, ours: str, convert: Callable[[Tensor], Tensor] = _same
) -> tuple[Rule, Rule]:
    """Rules for a weight and its bias."""
    weight = Rule(f"{theirs}.weight", f"{ours}.weight", convert)
    return weight, Rule(f"{theirs}.bias", f"{ours}.bias", _same)


def _vit_rules(theirs: str, ours: str, depth: int) -> Iterator[Rule]:
    """Transformer blocks, which are called alike, and the residual MLP behind them."""
    for i in range(depth):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            yield from _layer(f"{theirs}.blocks.{i}.{part}", f"{ours}.blocks.{i}.{part}")
    yield from _layer(f"{theirs}.norm_mlp", f"{ours}.norm")
    for part in ("post_mlp.fc1", "post_mlp.fc2"):
        yield from _layer(f"{theirs}.{part}", f"{ours}.{part}")


def _encoder_rules(config: TokenizerConfig) -> Iterator[Rule]:
    yield from _layer("encoder.proj", "encoder.embed_input.proj", _from_conv)
    yield from _vit_rules("encoder", "encoder", config.encoder_depth)
    yield from _layer("quant_proj", "encoder.to_latent", _from_conv)


def _decoder_rules(config: TokenizerConfig, state: Mapping[str, Tensor]) -> Iterator[Rule]:
    if config.decoder == "diffusion":
        yield from _unet_rules(config.diffusion, "decoder.net.network")
        return
    channels, patch = _num_channels(state), config.patch_px or 0

    def bands_last(x: Tensor) -> Tensor:
        """Rows of (band, row, column) as rows of (row, column, band)."""
        return x.unflatten(0, (channels, patch * patch)).transpose(0, 1).flatten(0, 1)

    yield from _layer("post_quant_proj", "decoder.net.from_latent", _from_conv)
    yield from _vit_rules("decoder", "decoder.net", config.decoder_depth)
    for kind in ("weight", "bias"):
        name = f"decoder.net.to_pixels.{kind}"
        yield Rule(f"decoder.out_proj.{kind}", name, bands_last)


def _residual_rules(theirs: str, ours: str, widens: bool) -> Iterator[Rule]:
    names = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "shift",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
    }
    if widens:
        names["skip_connection"] = "skip"
    for name, own in names.items():
        yield from _layer(f"{theirs}.{name}", f"{ours}.{own}")


def _attention_rules(theirs: str, ours: str) -> Iterator[Rule]:
    yield from _layer(f"{theirs}.norm", f"{ours}.norm")
    for name, own in (("qkv", "qkv"), ("proj_out", "proj")):
        yield from _layer(f"{theirs}.{name}", f"{ours}.attn.{own}", lambda x: x[..., 0])


def _unet_rules(config: DiffusionConfig, ours: str) -> Iterator[Rule]:
    yield from _layer("decoder.time_embed.0", f"{ours}.step_embed.fc1")
    yield from _layer("decoder.time_embed.2", f"{ours}.step_embed.fc2")
    yield from _layer("decoder.input_blocks.0.0", f"{ours}.stem")
    last, index, channels = len(config.multipliers) - 1, 1, config.multipliers[0]
    for level, width in enumerate(config.multipliers):
        for block in range(config.blocks_per_level):
            theirs, own = f"decoder.input_blocks.{index}", f"{ours}.down.{level}.stages.{block}"
            yield from _residual_rules(f"{theirs}.0", f"{own}.res", channels != width)
            if config.attention[level]:
                yield from _attention_rules(f"{theirs}.1", f"{own}.attn")
            index, channels = index + 1, width
        if level < last:
            theirs = f"decoder.input_blocks.{index}.0.op"
            yield from _layer(theirs, f"{ours}.down.{level}.shrink")
            index += 1
    yield from _residual_rules("decoder.middle_block.0", f"{ours}.middle_in.res", widens=False)
    yield from _attention_rules("decoder.middle_block.1", f"{ours}.middle_in.attn")
    yield from _residual_rules("decoder.middle_block.2", f"{ours}.middle_out", widens=False)
    index = 0
    for i, level in enumerate(range(last, -1, -1)):
        for block in range(config.blocks_per_level + 1):
            theirs, own = f"decoder.output_blocks.{index}", f"{ours}.up.{i}.stages.{block}"
            # What comes from below and what was left for it: always more than what goes out.
            yield from _residual_rules(f"{theirs}.0", f"{own}.res", widens=True)
            if config.attention[level]:
                yield from _attention_rules(f"{theirs}.1", f"{own}.attn")
            index += 1
        if level:
            part = 2 if config.attention[level] else 1
            yield from _layer(
                f"decoder.output_blocks.{index - 1}.{part}.conv", f"{ours}.up.{i}.grow"
            )
    yield from _layer("decoder.out.0", f"{ours}.norm")
    yield from _layer("decoder.out.2", f"{ours}.to_patches")


def _check_positions(key: str, found: Tensor) -> None:
    """Positions [1, D, h, w] are those of a grid of 16 x 16, by number of row and of column."""
    width, rows, columns = found.shape[1:]
    if (rows, columns) == (POSITION_SIDE, POSITION_SIDE):
        codes = sincos(torch.arange(POSITION_SIDE), width // 2)
        down = codes[:, None].expand(-1, POSITION_SIDE, -1)
        expected = torch.cat([down, down.transpose(0, 1)], dim=2).permute(2, 0, 1)
        if torch.allclose(found[0].float(), expected, atol=1e-3):
            return
    raise RunError(
        f"{key} is not the table of fixed positions on a grid of {POSITION_SIDE} x {POSITION_SIDE} that "
        "TerraMind's tokenizers were published with; learned positions have no place here"
    )
