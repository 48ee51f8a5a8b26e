"""Run by test_timm_backbone.py where timm is: a ViT of timm as a backbone of a task.

python public_timm_backbone.py OUT
"""

import sys

import torch
from public_package import open_timm

from pipeline.transfer.backbone import Intake
from pipeline.transfer.opening import open_backbone


@torch.no_grad()
def main(out: str) -> None:
    open_timm()
    offered = {
        "S2": Intake(("B02", "B08"), (100.0, 200.0), (50.0, 60.0), 10.0, 16),
        "L8": Intake(("B2",), (1.0,), (2.0,), 30.0, 16),
    }
    vit = open_backbone("timm:vit_tiny_patch16_224", offered, torch.device("cpu"), 0).eval()
    given = {"S2": torch.randn(2, 2, 48, 48) * 50, "L8": torch.randn(2, 1, 16, 16)}
    present = {name: torch.ones(2, dtype=torch.bool) for name in given}
    several = vit(given, present, [3, 11])
    present["L8"][0] = False
    other = {**given, "L8": given["L8"] + 5}
    parameters = ("vit.patch_embed.proj.weight", "vit.blocks.4.mlp.fc1.weight", "vit.norm.weight")
    found = {
        "patch_px": {name: intake.patch_px for name, intake in vit.intakes.items()},
        "shapes": [tuple(f.shape) for f in several],
        "given": vit(given, present, [11])[0],
        "other": vit(other, present, [11])[0],
        "levels": [vit.level(name) for name in parameters],
    }
    torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
