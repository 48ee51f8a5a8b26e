"""Run by test_timm_parity.py where timm is: features of its VisionTransformer with weights of ours.

python public_vit.py OUT WEIGHTS NUM_GLOBAL
"""

import sys

import torch
from public_package import open_timm
from safetensors.torch import load_file


def main(out: str, weights: str, num_global: int) -> None:
    timm = open_timm()
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, in_chans=3, num_classes=0, embed_dim=16, depth=2, num_heads=2,
        class_token=num_global > 0, reg_tokens=max(0, num_global - 1), global_pool="",
    ).eval()  # fmt: skip
    drawn = {k: v.clone() for k, v in vit.state_dict().items()}
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        own = vit.forward_features(x)
        vit.load_state_dict(load_file(weights), strict=True)
        found = vit.forward_features(x)
    torch.save({"given": x, "ours_in": found, "drawn": drawn, "own": own}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
