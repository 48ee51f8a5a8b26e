"""Our encoder as TerraTorch builds and uses it: run by an interpreter that has terratorch and our packages.

    python public_backbone.py OUT.pt RUN

Writes what the registry's backbone computes of random inputs, with TerraTorch's own neck behind it.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch

# The packages around the registry import all of terratorch and its dependencies; the registry does not.
spec = importlib.util.find_spec("terratorch")
assert spec is not None
assert spec.submodule_search_locations
for name in ("terratorch", "terratorch.registry", "terratorch.models"):
    package = types.ModuleType(name)
    folder = Path(spec.submodule_search_locations[0])
    package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = package

# Another neck's base class; the real torchvision does not go with a torch that was built for the CPU only.
for name in ("torchvision", "torchvision.ops"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.ops"].__dict__["FeaturePyramidNetwork"] = torch.nn.Module

registry: Any = importlib.import_module("terratorch.registry.registry")
sys.modules["terratorch.registry"].__dict__.update(vars(registry))


if __name__ == "__main__":
    from pipeline.stage2.terratorch_backbone import register

    out, run = sys.argv[1:]
    torch.manual_seed(0)
    name = register()
    assert name in registry.BACKBONE_REGISTRY
    build = registry.BACKBONE_REGISTRY.build
    given = {"S1GRD": torch.randn(2, 2, 8, 8), "DEM": torch.rand(2, 1, 8, 8) * 900}
    with torch.no_grad():
        model = build(name, path=run, modalities=["S1GRD", "DEM"], pretrained=True)
        single = build(name, path=run, modalities=["S1GRD"], layers=[-1])
        wide = build(name, path=run, modalities=["S1GRD", "DEM"], merge_method="concat")
        neck = importlib.import_module("terratorch.models.necks").ReshapeTokensToImage
        images = neck(model.out_channels, remove_cls_token=False)(model(given))
        torch.save(
            {
                "given": given,
                "mean": model(given),
                "images": images,
                "single": single(given["S1GRD"]),
                "concat": wide({"DEM": given["DEM"], "S1GRD": given["S1GRD"]}),
                "out_channels": [m.out_channels for m in (model, single, wide)],
            },
            out,
        )
