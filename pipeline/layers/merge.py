"""Features of several modalities: what belongs together, and all as one, place by place.

Shapes: B batch, N tokens of one modality, D width, M modalities.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]
Merge = Literal["none", "mean", "max", "concat"]


class Part(NamedTuple):
    """The tokens of one modality in a sequence; `real` bool [B, N], None: all of them are there."""

    name: str
    stream: str
    grid: Grid | None
    count: int
    batch: int
    real: Tensor | None

    def mask(self, device: torch.device) -> Tensor:
        if self.real is None:
            return torch.ones(self.batch, self.count, dtype=torch.bool, device=device)
        return self.real


def merge_parts(
    parts: Sequence[Part], features: Sequence[Tensor], how: Merge, room: Sequence[str] = ()
) -> Tensor:
    """Features [B, N, D] of each part -> [B, N', D], or [B, N', M D] for `concat`.

    Coarser grids are interpolated to the finest; what is no map is left out, and so is what a sample
    lacks. `room` names the streams that `concat` has channels for; those not there are zeros. Raises
    ValueError where there is no map.
    """
    maps = [(p, x) for p, x in zip(parts, features, strict=True) if p.grid is not None]
    if not maps:
        raise ValueError("only maps can be merged: write merge='none', or give an image")
    grid = max((p.grid for p, _ in maps if p.grid), key=lambda g: g[0] * g[1])
    found = {p.stream: _on(grid, p, x) for p, x in maps}
    if how == "concat":
        nothing = torch.zeros_like(next(iter(found.values()))[0])
        names = room or found
        return torch.cat([found[n][0] if n in found else nothing for n in names], -1)
    values = torch.stack([x for x, _ in found.values()])
    weights = torch.stack([w for _, w in found.values()])
    if how == "max":
        highest = (values / weights.clamp(min=1e-6)).masked_fill(weights == 0, -torch.inf).amax(0)
        return highest.masked_fill((weights == 0).all(0), 0.0)
    return values.sum(0) / weights.sum(0).clamp(min=1e-6)


def check_parts(parts: Sequence[Part], patches_m: Sequence[float]) -> None:
    """Raises ValueError for inputs that do not belong together; `patches_m` are sides of their patches."""
    if len({p.stream for p in parts}) < len(parts):
        raise ValueError(f"{', '.join(p.name for p in parts)}: one of these is given twice")
    # No set and no len() of these: what is traced keeps a batch of any size.
    if any(p.batch != parts[0].batch for p in parts):
        sizes = ", ".join(f"{p.name}: {p.batch}" for p in parts)
        raise ValueError(f"all inputs are of the same samples; given are {sizes}")
    sizes = {
        p.name: (p.grid[0] * side, p.grid[1] * side)
        for p, side in zip(parts, patches_m, strict=True)
        if p.grid
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{n} {h:g} x {w:g} m" for n, (h, w) in sizes.items())
        raise ValueError(f"all images show the same ground; given are {told}")


def run_blocks(
    blocks: nn.ModuleList, norm: nn.Module, x: Tensor, layers: Sequence[int] | None, *given: Any
) -> list[Tensor]:
    """Features after the chosen `layers` (all by default), the last block's normalised.

    Negative numbers count from the last; blocks get `given` as well. Raises ValueError for a layer that there
    is not.
    """
    depth = len(blocks)
    wanted = range(depth) if layers is None else [_layer_number(i, depth) for i in layers]
    found = {}
    for number, block in enumerate(blocks[: max(wanted) + 1]):
        x = block(x, *given)
        if number in wanted:
            found[number] = norm(x) if number == depth - 1 else x
    return [found[number] for number in wanted]


def split_features(
    features: Sequence[Tensor],
    skipped: int,
    parts: Sequence[Part],
    how: Merge,
    room: Sequence[str] = (),
) -> list[dict[str, Tensor]] | list[Tensor]:
    """Of each layer the features of each part by name, or merged; the first `skipped` tokens are no part."""
    sizes = [p.count for p in parts]
    split = [x[:, skipped:].split(sizes, 1) for x in features]
    if how == "none":
        return [{p.name: x for p, x in zip(parts, xs, strict=True)} for xs in split]
    return [merge_parts(parts, xs, how, room) for xs in split]


def _layer_number(layer: int, depth: int) -> int:
    if not -depth <= layer < depth:
        raise ValueError(f"layer {layer}: the encoder has {depth}, 0 to {depth - 1}")
    return layer % depth


def _on(grid: Grid, part: Part, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features times their weights on a grid, and the weights [B, N, 1]."""
    weight = part.mask(x.device)[..., None].to(x.dtype)
    if part.real is not None:
        x = x * weight
    return _resized(x, part.grid, grid), _resized(weight, part.grid, grid)


def _resized(x: Tensor, old: Grid | None, new: Grid) -> Tensor:
    if old is None or old == new:
        return x
    image = x.transpose(1, 2).unflatten(2, old)
    image = F.interpolate(image, size=new, mode="bilinear", align_corners=False)
    return image.flatten(2).transpose(1, 2)
