"""Run by test_timm_parity.py where timm is: features of its VisionTransformer with weights of ours.

    python public_vit.py OUT WEIGHTS NUM_GLOBAL

timm reads no image here, but imports torchvision, whose builds have to match torch's to the build; modules
that only answer to their names stand in for it.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of torchvision, and nothing in any of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def main(out: str, weights: str, num_global: int) -> None:
    sys.meta_path.insert(0, Absent())
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(
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
