"""MultiMAE: groups of bands, how they are masked, and the decoders' tasks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Task = Literal["values", "normed"]


class GroupConfig(Frozen):
    """Bands of one modality that share a patch projection and a decoder.

    `bands` are names of the registry; empty takes all. `patch_m` is the side of a patch on the ground;
    null takes that of all groups. Of class maps, `stride` keeps every so manyth pixel, the one in the
    middle (nearest neighbour), and `class_width` is the width of a class's embedding.

    `targets`: a decoder each for the `values` and for values `normed` patch by patch (He et al. 2022,
    table 1d); empty: the group is seen and never predicted. `loss` of images is the squared (`l2`) or
    absolute error; that of class maps is cross-entropy.

    `standardise: robust` takes mean and deviation from the middle 80 % of each sample's own values, as
    MultiMAE does for depth: what is left is the relief, without its height above the sea.
    """

    modality: str
    bands: tuple[str, ...] = ()
    patch_m: float | None = Field(default=None, gt=0)
    stride: int = Field(default=1, gt=0)
    class_width: int = Field(default=64, gt=0)
    targets: tuple[Task, ...] = ("values",)
    loss: Literal["l2", "l1"] = "l2"
    standardise: Literal["global", "robust"] = "global"

    @model_validator(mode="after")
    def _once_each(self) -> "GroupConfig":
        if len(set(self.targets)) < len(self.targets) or len(set(self.bands)) < len(self.bands):
            raise ValueError("name each of `bands` and `targets` once")
        return self


DEFAULT_GROUPS = {
    "rgb": GroupConfig(modality="S2L2A", bands=("B02", "B03", "B04"), targets=("values", "normed")),
    "red_edge": GroupConfig(modality="S2L2A", bands=("B05", "B06", "B07")),
    "nir": GroupConfig(modality="S2L2A", bands=("B08", "B8A")),
    "swir": GroupConfig(modality="S2L2A", bands=("B11", "B12")),
    "elevation": GroupConfig(modality="DEM", loss="l1", standardise="robust"),
    "landcover": GroupConfig(modality="WorldCover", stride=4),
}
"""The groups of Sosa et al. 2025 (their `domain_config.py`)."""


class MultiMAEConfig(Frozen):
    """A ViT over the visible patches of all groups, and a shallow decoder per task.

    Windows of `window_m` metres are cut into patches of `patch_m`. Of all patches of a sample
    `num_visible` are seen, shared out over its groups by Dirichlet draws of `alpha` (Bachmann et al.
    2022, section 3.2), but at most half of what a sample has. `alpha_by` has the alphas of single groups.

    The loss of a sample is the sum over its tasks of the mean error of hidden patches, times
    `loss_weights` (by group, or by task as `rgb/normed`); with `uncertainty` such weights are learned.

    `augment`: windows at random places in one of the 8 symmetries of the square, or always the middle.
    `init_vit`: a safetensors file with the state of a timm VisionTransformer that the encoder starts from.
    """

    groups: dict[Name, GroupConfig] = Field(default=DEFAULT_GROUPS, min_length=1)
    window_m: float = Field(default=560.0, gt=0)
    patch_m: float = Field(default=80.0, gt=0)
    num_visible: int = Field(default=49, gt=0)
    alpha: float = Field(default=1.0, gt=0)
    alpha_by: dict[str, Annotated[float, Field(ge=0)]] = {}
    width: int = Field(default=768, gt=0)
    depth: int = Field(default=12, gt=0)
    heads: int = Field(default=12, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    num_global_tokens: int = Field(default=1, ge=0)
    decoder_width: int = Field(default=128, gt=0)
    decoder_depth: int = Field(default=2, ge=0)
    decoder_heads: int = Field(default=8, gt=0)
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    uncertainty: bool = False
    augment: bool = True
    init_vit: Path | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "MultiMAEConfig":
        for name, width, heads in (
            ("width", self.width, self.heads),
            ("decoder_width", self.decoder_width, self.decoder_heads),
        ):
            if width % heads or width % 4:
                raise ValueError(
                    f"{name} {width} must be a multiple of 4 and of its number of heads, {heads}"
                )
        tasks = {f"{name}/{t}" for name, group in self.groups.items() for t in group.targets}
        if not tasks:
            raise ValueError("no group has `targets`: nothing would be learned")
        for key, names in (
            ("alpha_by", set(self.groups)),
            ("loss_weights", tasks | set(self.groups)),
        ):
            if stray := set(getattr(self, key)) - names:
                raise ValueError(
                    f"{key} names {', '.join(sorted(stray))}; there are {', '.join(sorted(names))}"
                )
        return self
