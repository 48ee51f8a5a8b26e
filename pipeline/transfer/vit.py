"""A ViT of timm as a backbone: all bands side by side, and a plane per modality that says it is there.

Pretrained weights for other channels are adapted by timm, which repeats and rescales the RGB kernels.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.engine.errors import RunError
from pipeline.layers.standardise import Standardise
from pipeline.transfer.backbone import Backbone, Images, Intake, Known


class VitBackbone(Backbone):
    """`timm:NAME`, such as vit_tiny_patch16_224, over the modalities of a task.

    All images are brought to the first modality's pixels. A modality that a sample lacks is zeros under
    a presence plane of zeros, so that it is not taken for a mean image.
    """

    kind = "timm"

    def __init__(self, vit: nn.Module, intakes: Mapping[str, Intake], patch_px: int):
        super().__init__()
        self.vit = vit
        self.width = int(cast(Any, vit).embed_dim)
        self.depth = len(cast(Any, vit).blocks)
        gsd = next(iter(intakes.values())).gsd_m
        # Of coarser pixels a patch has fewer; whole ones are needed to cut one ground.
        self.intakes = {
            n: i._replace(patch_px=max(1, round(patch_px * gsd / i.gsd_m)))
            for n, i in intakes.items()
        }
        self.patch_px = patch_px
        self.standardise = nn.ModuleDict(
            {n: Standardise(i.mean, i.std, None) for n, i in intakes.items()}
        )

    def forward(
        self,
        images: Images,
        present: Mapping[str, Tensor],
        layers: Sequence[int],
        known: Known | None = None,
    ) -> list[Tensor]:
        h, w = self.grid(images)
        size = h * self.patch_px, w * self.patch_px
        b = len(next(iter(images.values())))
        planes = []
        for name, intake in self.intakes.items():
            if name in images:
                there = present[name].to(torch.float32)[:, None, None, None]
                x = self.standardise[name](images[name])
                x = nn.functional.interpolate(x, size, mode="bilinear") * there
            else:
                device = next(iter(images.values())).device
                x = torch.zeros(b, len(intake.bands), *size, device=device)
                there = torch.zeros(b, 1, 1, 1, device=device)
            planes += [x, there.expand(b, 1, *size)]
        found = cast(Any, self.vit).forward_intermediates(
            torch.cat(planes, 1), indices=list(layers), norm=True, intermediates_only=True
        )
        return list(found)

    def level(self, parameter: str) -> int:
        part, _, rest = parameter.removeprefix("vit.").partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.depth + 1 if part == "norm" else 0


def open_vit(
    name: str, offered: Mapping[str, Intake], device: torch.device, seed: int | None
) -> Backbone:
    """The model, with timm's weights or, with `seed`, fresh ones. Raises RunError."""
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise RunError(
            f"backbone=timm:{name} needs the package timm ({error}): pip install '.[transfer]'"
        ) from error
    channels = sum(len(i.bands) + 1 for i in offered.values())
    with torch.random.fork_rng([]):
        torch.manual_seed(seed or 0)
        try:
            vit = timm.create_model(
                name, pretrained=seed is None, in_chans=channels, num_classes=0,
                dynamic_img_size=True,
            )  # fmt: skip
        except Exception as error:
            raise RunError(f"timm makes no {name!r}: {error}") from error
    if not hasattr(vit, "blocks") or not hasattr(vit, "forward_intermediates"):
        raise RunError(f"timm's {name} is no plain ViT; try vit_tiny_patch16_224")
    patch = vit.patch_embed.patch_size
    return VitBackbone(vit, offered, int(patch[0])).to(device)
