"""What terratorch's tokenizers compute, for comparison: run by an interpreter that has terratorch.

    python public_terramind.py OUT.pt

Writes, for a diffusion and a ViT tokenizer of small width with random weights, the state dict, inputs and
outputs; and names and shapes of the tensors of those that were released.
"""

import importlib
import sys
from functools import partial
from typing import Any

import torch
from public_package import open_terratorch

# These look for torchvision, so they come before its stand-in.
for name in ("diffusers.pipelines.pipeline_utils", "diffusers.models.modeling_utils"):
    importlib.import_module(name)
open_terratorch("models", "backbones", "terramind", "tokenizer")

vqvae: Any = importlib.import_module("terratorch.models.backbones.terramind.tokenizer.vqvae")
vit, unet = vqvae.vit_models, vqvae.unet

RELEASED = {
    "patch_size": 16,
    "image_size": 256,
    "post_mlp": True,
    "quant_type": "fsq",
    "latent_dim": 5,
}
DIFFUSION = {
    **RELEASED,
    "codebook_size": "8-8-8-6-5",
    "prediction_type": "sample",
    "patch_size_dec": 4,
    "thresholding": False,
}
SMALL = {"dim_tokens": 128, "depth": 2, "num_heads": 2}


def add_small_sizes() -> None:
    """The classes of the released tokenizers, with fewer channels and layers."""
    vit.vit_small_enc = partial(vit.ViTEncoder, **SMALL)
    vit.vit_small_dec = partial(vit.ViTDecoder, **SMALL)
    unet.unet_small = partial(
        unet.PatchedUNetCondCat,
        patch_size=4,
        model_channels=32,
        num_res_blocks=2,
        attention_resolutions=[4, 8],
        channel_mult=(1, 2, 2, 2),
    )


def shake(model: torch.nn.Module) -> None:
    """No weight stays at the zero or one that it starts with."""
    for name, p in model.named_parameters():
        if not name.endswith("pos_emb"):
            p.data.add_(0.05 * torch.randn_like(p))


def encoded(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    latents = model.quant_proj(model.encoder(x))
    _, _, codes = model.quantize(latents)
    return {"x": x, "latents": latents, "codes": codes}


def diffusion(side: int) -> dict[str, Any]:
    model = vqvae.DiVAE(n_channels=2, enc_type="vit_small_enc", dec_type="unet_small", **DIFFUSION)
    shake(model.eval())
    x, noisy = torch.randn(2, 2, side, side), torch.randn(2, 2, side, side)
    made = encoded(model, x)
    quantized, _, _ = model.quantize(made["latents"])
    steps = torch.tensor([999, 40])
    return {
        "state": model.state_dict(),
        **made,
        "quantized": quantized,
        "noisy": noisy,
        "steps": steps,
        "output": model.decoder(noisy, steps, quantized),
        "alphas_cumprod": model.noise_scheduler.alphas_cumprod,
        "path": path(model, noisy, quantized),
    }


def path(model: Any, x: torch.Tensor, quantized: torch.Tensor) -> list[torch.Tensor]:
    """Images on the way from `x` in 4 steps."""
    images, scheduler = [], model.noise_scheduler
    scheduler.set_timesteps(4)
    for step in scheduler.timesteps:
        x = scheduler.step(model.decoder(x, step, quantized), step, x).prev_sample
        images.append(x)
    return images


def classes(side: int) -> dict[str, Any]:
    model = vqvae.VQVAE(
        n_channels=10,
        enc_type="vit_small_enc",
        dec_type="vit_small_dec",
        codebook_size="7-5-5-5-5",
        **RELEASED,
    )
    shake(model.eval())
    x = torch.randint(0, 10, (2, 1, side, side))
    made = encoded(model, x)
    quantized, _, _ = model.quantize(made["latents"])
    return {"state": model.state_dict(), **made, "output": model.decode_quant(quantized)}


def released() -> dict[str, dict[str, tuple[int, ...]]]:
    makers = {
        "S2L2A": partial(vqvae.DiVAE, n_channels=12, **DIFFUSION),
        "DEM": partial(vqvae.DiVAE, n_channels=1, **DIFFUSION),
        "LULC": partial(vqvae.VQVAE, n_channels=10, codebook_size="7-5-5-5-5", **RELEASED),
    }
    return {
        name: {k: tuple(v.shape) for k, v in make().state_dict().items()}
        for name, make in makers.items()
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    add_small_sizes()
    with torch.no_grad():
        found = {
            f"{kind.__name__}{side}": kind(side)
            for kind in (diffusion, classes)
            for side in (256, 224)
        }
        torch.save(found | {"released": released()}, sys.argv[1])
