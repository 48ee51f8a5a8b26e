"""What a backbone is to transfer: images of any of its modalities in, feature maps out.

Shapes: B batch, C bands, H W pixels, D width, h w grid of features.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from torch import Tensor, nn

from configs.schema.transfer import MergeType

Images = Mapping[str, Tensor]
Known = Mapping[str, Sequence[bool]]


class Intake(NamedTuple):
    """One modality as a backbone takes it: bands in order, and what it was standardised with.

    `patch_px` is the side of its smallest patches; a window is whole patches of all sizes where its side is a
    multiple of `step_px` (0: as `patch_px`).
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_m: float
    patch_px: int
    step_px: int = 0

    @property
    def step_m(self) -> float:
        return (self.step_px or self.patch_px) * self.gsd_m


class Backbone(nn.Module, ABC):
    """Base of all backbones. A module of their own parameters: what is frozen for good is none of it.

    Attributes:
        kind: `stage2`, `fusion`, `timm`, ...
        intakes: the modalities it takes.
        width: D.
        depth: number of layers whose features can be asked for, 0 to depth - 1.
        window_m: the only ground it can see; None where any whole number of patches will do.
    """

    kind: str
    intakes: dict[str, Intake]
    width: int
    depth: int
    window_m: float | None = None

    def expect(self, names: Sequence[str], merge: MergeType) -> None:
        """Say which modalities will be given and how their features become one: it may change `width`.

        Here nothing: a backbone of one vector per place has nothing to merge.
        """

    @abstractmethod
    def forward(
        self,
        images: Images,
        present: Mapping[str, Tensor],
        layers: Sequence[int],
        known: Known | None = None,
    ) -> list[Tensor]:
        """Feature maps [B, D, h, w] after each of `layers`, ascending; the last layer's normalised.

        `images` [B, C, H, W] are in physical units, NaN where nothing was measured, and of one ground;
        `present` bool [B] says which samples have them. Every sample has at least one. `known` says of each
        image which of its bands were given; others hold the mean (default: all were).
        """

    @abstractmethod
    def level(self, parameter: str) -> int:
        """How far a parameter is from the input: 0 embeds, 1 to depth are layers, depth + 1 ends."""

    def grid(self, images: Images) -> tuple[int, int]:
        """Rows and columns of the finest grid of patches among these images."""
        return finest_grid(images, {n: i.patch_px for n, i in self.intakes.items()})


def finest_grid(images: Images, patch_px: Mapping[str, int]) -> tuple[int, int]:
    """Rows and columns of the patches of the image that has most."""
    sizes = [(x.shape[-2] // patch_px[n], x.shape[-1] // patch_px[n]) for n, x in images.items()]
    return max(sizes, key=math.prod)


def fitting_window(
    ground_m: tuple[float, float], intakes: Mapping[str, Intake]
) -> tuple[float, float]:
    """The ground nearest to this that all intakes cut into whole patches: (height, width) in metres."""
    sides = [Fraction(intake.step_m).limit_denominator(1000) for intake in intakes.values()]
    step = _lcm(sides)
    height, width = (float(max(1, round(Fraction(m) / step)) * step) for m in ground_m)
    return height, width


def spread_layers(depth: int, count: int) -> list[int]:
    """`count` layers evenly over the depth, the last among them; fewer where there are fewer."""
    count = min(count, depth)
    return [depth * (i + 1) // count - 1 for i in range(count)]


def _lcm(values: Sequence[Fraction]) -> Fraction:
    scale = math.lcm(*(v.denominator for v in values))
    return Fraction(math.lcm(*(int(v * scale) for v in values)), scale)
