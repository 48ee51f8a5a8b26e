"""The encoder as a backbone of TerraTorch, for its decoders, heads and fine-tuning tasks.

    from pipeline.stage2.terratorch_backbone import register
    register()                                # before the model is built
    BACKBONE_REGISTRY.build("eo_pretrain", path="runs/stage2", modalities=["S2L2A", "DEM"])

In a YAML file of TerraTorch: `backbone: eo_pretrain`, `backbone_path: ...`, `backbone_modalities: [...]`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.engine.errors import RunError
from pipeline.layers.merge import Merge
from pipeline.stage2.encoder import Encoder

NAME = "eo_pretrain"


class Backbone(nn.Module):
    """What TerraTorch asks of a backbone: a list of features, one per layer, and `out_channels` of each.

    Args:
        path: a run, its artifact, or what `python -m pipeline export` wrote.
        modalities: those that it will be given; a single tensor is the first of them. By default all
            pixel modalities of the model.
        merge_method: `mean`, `max` or `concat`, as in `Encoder`.
        layers: whose features are given, all by default.
        standardise: False where the data module already standardises, with the model's statistics.
    """

    def __init__(
        self,
        path: Path | str,
        modalities: Sequence[str] | None = None,
        merge_method: Merge = "mean",
        layers: Sequence[int] | None = None,
        standardise: bool = True,
    ):
        super().__init__()
        if merge_method not in ("mean", "max", "concat"):
            raise ValueError(f"merge_method {merge_method!r}: choose mean, max or concat")
        self.encoder = Encoder.from_pretrained(path)
        names = modalities or [
            self.encoder.layout.streams[i].name for i in self.encoder.layout.pixels
        ]
        streams = [self.encoder.stream(name)[1] for name in names]
        self.encoder.expected = tuple(s.name for s in streams)
        self.modalities = tuple(s.part for s in streams) if modalities is None else (*names,)
        self.merge_method: Merge = merge_method
        self.layers = layers
        if not standardise:
            for name in self.encoder.standardise:
                self.encoder.standardise[name] = nn.Identity()
        width = self.encoder.config.width
        if merge_method == "concat":
            width *= sum(s.grid is not None for s in streams)
        depth = self.encoder.config.encoder_depth if layers is None else len(layers)
        self.out_channels = [width] * depth
        # From this TerraTorch knows by what the sides of images have to be divisible.
        self.patch_size = max(s.patch_px for s in streams)

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
        """Images of one or several modalities [B, C, H, W] -> features [B, N, D] of every layer."""
        given = {self.modalities[0]: x} if isinstance(x, Tensor) else x
        features = self.encoder(given, self.layers, self.merge_method)
        return [f for f in features if isinstance(f, Tensor)]


def eo_pretrain(**settings: Any) -> Backbone:
    """`Backbone`, under the name that TerraTorch looks up; its factories also pass `pretrained`."""
    settings.pop("pretrained", None)
    return Backbone(**settings)


def register() -> str:
    """Make the backbone known to TerraTorch; gives its name. Raises RunError where that is missing."""
    try:
        registry = import_module("terratorch.registry.registry").TERRATORCH_BACKBONE_REGISTRY
    except ImportError as error:
        raise RunError(
            f"terratorch cannot be imported ({error}): pip install terratorch"
        ) from error
    registry.register(eo_pretrain)
    return NAME
