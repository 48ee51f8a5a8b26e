"""What terratorch's TerraMind computes, for comparison: run by an interpreter that has terratorch.

    python public_terramind_model.py OUT.pt

Writes, for a small model of either style with random weights, the state dict, inputs, encoder features of
every modality alone and of mixtures, and decoder logits; and names and shapes of those that were released.
"""

import importlib
import sys
from functools import partial
from typing import Any

import torch
from public_package import open_terratorch
from torch import nn

open_terratorch("models", "backbones", "terramind", "model")

stem = "terratorch.models.backbones.terramind.model"
info: Any = importlib.import_module(f"{stem}.modality_info").MODALITY_INFO
terramind: Any = importlib.import_module(f"{stem}.terramind")
vit: Any = importlib.import_module(f"{stem}.terramind_vit")
utils: Any = importlib.import_module(f"{stem}.tm_utils")

PIXELS = ["sen2l2a", "sen2l1c", "sen2rgb", "sen1grd", "sen1rtc", "dem"]
MAPS = ["sen2l2a", "sen1grd", "sen1rtc", "dem", "lulc", "ndvi"]
KEYS = [f"untok_{n}@224" for n in PIXELS] + [f"tok_{n}@224" for n in MAPS] + ["caption", "coords"]
NORM = partial(utils.LayerNorm, eps=1e-6, bias=False)
GATED: dict[str, Any] = {
    "qkv_bias": False,
    "proj_bias": False,
    "mlp_bias": False,
    "act_layer": nn.SiLU,
    "gated_mlp": True,
    "norm_layer": NORM,
}
PLAIN: dict[str, Any] = {
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "act_layer": nn.GELU,
    "gated_mlp": False,
    "norm_layer": NORM,
}
RELEASED: dict[str, dict[str, Any]] = {
    "tiny": {**PLAIN, "dim": 192, "encoder_depth": 12, "decoder_depth": 4, "num_heads": 3},
    "small": {**PLAIN, "dim": 384, "encoder_depth": 12, "decoder_depth": 6, "num_heads": 6},
    "base": {**GATED, "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12},
    "large": {**GATED, "dim": 1024, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 16},
}
SMALL = {"dim": 128, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 2}
CODES = {"img": 97, "seq": 131}
"""Smaller vocabularies than the released ones."""
FIRST = 2
"""What sequences start with; theirs is whatever stands first."""


def build(shape: dict[str, Any], small: bool) -> Any:
    """The whole model as `terramind_v1_*_generate` makes it."""
    table = {k: dict(info[k]) for k in KEYS}
    kinds: dict[str, dict[str, nn.Module]] = {"encoder_embedding": {}, "decoder_embedding": {}}
    for key, entry in table.items():
        if small and "vocab_size" in entry:
            entry["vocab_size"] = CODES[entry["type"]]
        for kind, made in kinds.items():
            if entry[kind] is not None:
                given = {k: v for k, v in entry.items() if k not in kinds}
                made[key] = entry[kind](image_size=224, **given)
    return terramind.TerraMind(
        encoder_embeddings=kinds["encoder_embedding"],
        decoder_embeddings=kinds["decoder_embedding"],
        modality_info=table,
        **shape,
    )


def shake(model: nn.Module) -> None:
    """No weight stays at the zero or one that it starts with."""
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))


def inputs(model: Any, batch: int = 2) -> dict[str, torch.Tensor]:
    made = {}
    for key, entry in model.modality_info.items():
        if key.startswith("untok"):
            made[key] = torch.randn(batch, entry["num_channels"], 224, 224)
        elif entry["type"] == "img":
            made[key] = torch.randint(0, CODES["img"], (batch, 14, 14))
        else:
            length = 4 if key == "coords" else 9
            made[key] = torch.randint(4, CODES["seq"], (batch, length))
            made[key][:, 0] = FIRST
    return made


def mod_dict(
    model: Any, given: dict[str, torch.Tensor], sources: list[str], targets: list[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """As their masking makes it, for whole modalities."""
    made = {}
    for key in [*sources, *targets]:
        x = given[key]
        is_pixel, is_sequence = key.startswith("untok"), model.modality_info[key]["type"] == "seq"
        count = 196 if is_pixel else x[0].numel()
        hidden = torch.ones(len(x), count, dtype=torch.bool)
        attention = torch.zeros(len(x), count, dtype=torch.int)
        if is_sequence:
            attention[:] = 1
        else:
            attention[:, 0] = count
        made[key] = {
            "tensor": x,
            "input_mask": ~hidden if key in sources else hidden,
            "target_mask": ~hidden if key in targets else hidden,
            "decoder_attention_mask": attention,
        }
    return made


def encoded(model: Any, given: dict[str, torch.Tensor], sources: list[str]) -> torch.Tensor:
    """Encoder features, in the order of `sources`."""
    made = mod_dict(model, given, sources, [])
    embedded = {k: model.encoder_embeddings[k](made[k]) for k in sources}
    count = sum(d["x"].shape[1] for d in embedded.values())
    tokens, emb, mask, _ = model.forward_mask_encoder(embedded, count)
    return model.forward_encoder(tokens + emb, encoder_mask=mask)


def decoded(
    model: Any, given: dict[str, torch.Tensor], sources: list[str], target: str
) -> torch.Tensor:
    """Logits of one target, in the order of its places."""
    made = mod_dict(model, given, sources, [target])
    embedded = {k: model.encoder_embeddings[k](made[k]) for k in sources}
    count = sum(d["x"].shape[1] for d in embedded.values())
    tokens, emb, mask, _ = model.forward_mask_encoder(embedded, count)
    targets = {target: model.decoder_embeddings[target].forward_embed(made[target])}
    count = given[target][0].numel() - (model.modality_info[target]["type"] == "seq")
    y, y_emb, _, _, attention, _ = model.forward_mask_decoder(targets, count)
    x = model.forward_encoder(tokens + emb, encoder_mask=mask)
    context = model.decoder_proj_context(x) + emb
    y = model.forward_decoder(y + y_emb, context, mask, attention)
    return model.decoder_embeddings[target].forward_logits(y)


def whole(
    model: Any, given: dict[str, torch.Tensor], sources: list[str], targets: list[str]
) -> Any:
    """Logits of several targets at once, through their `forward`, and the loss."""
    made = mod_dict(model, given, sources, targets)
    sizes = {k: 196 if given[k].ndim > 2 else given[k].shape[1] for k in made}
    num_in = sum(sizes[k] for k in sources)
    num_out = sum(sizes[k] - (given[k].ndim == 2) for k in targets)
    _, losses = model({k: dict(d) for k, d in made.items()}, num_in, num_out)
    return {k: losses[k] for k in targets}


def backbone(model: Any, shape: dict[str, Any], given: dict[str, torch.Tensor]) -> Any:
    """`TerraMindViT` with the same weights: features of every layer, merged, also of larger images."""
    names = ["S2L2A", "DEM"]
    settings = {k: v for k, v in shape.items() if k != "decoder_depth"}
    made = vit.TerraMindViT(modalities=names, merge_method="mean", **settings).eval()
    state = {k: v for k, v in model.state_dict().items() if k in made.state_dict()}
    made.load_state_dict(state, strict=True)
    images = {"S2L2A": given["untok_sen2l2a@224"], "DEM": given["untok_dem@224"]}
    larger = {
        k: nn.functional.interpolate(v, size=(256, 320), mode="nearest") for k, v in images.items()
    }
    found = {"mean": made(dict(images)), "larger": larger, "mean_larger": made(dict(larger))}
    made.merge_method = "max"
    return found | {"max": made(dict(images))}


def case(style: dict[str, Any]) -> dict[str, Any]:
    shape = {**style, **SMALL}
    model = build(shape, small=True).eval()
    shake(model)
    given = inputs(model)
    mixtures = [
        ["untok_sen2l2a@224", "untok_dem@224"],
        ["untok_sen1grd@224", "tok_lulc@224", "coords"],
        ["untok_sen2rgb@224", "untok_sen2l1c@224", "tok_ndvi@224", "tok_sen2l2a@224", "caption"],
    ]
    sources = ["untok_sen1rtc@224", "tok_dem@224"]
    targets = [k for k in model.decoder_embeddings if k not in sources]
    return {
        "state": model.state_dict(),
        "inputs": given,
        "features": [(m, encoded(model, given, m)) for m in [*([k] for k in KEYS), *mixtures]],
        "logits": {k: (sources, decoded(model, given, sources, k)) for k in targets},
        "losses": (sources, whole(model, given, sources, ["tok_lulc@224", "caption", "coords"])),
        "backbone": backbone(model, shape, given),
    }


def released() -> dict[str, dict[str, tuple[int, ...]]]:
    # The model reads numbers from one of these while it is built, which a tensor without memory has not.
    torch.linspace = partial(torch.linspace, device="cpu")
    found = {}
    for name, shape in RELEASED.items():
        with torch.device("meta"):
            model = build(shape, small=False)
        found[name] = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        torch.save(
            {"gated": case(GATED), "plain": case(PLAIN), "released": released()}, sys.argv[1]
        )
