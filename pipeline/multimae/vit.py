"""Weights to and from timm's VisionTransformer (as MultiMAE's `multimae2vit` and `vit2multimae`).

A MultiMAE that sees one group of images is a ViT: its patch projection is a convolution, the first global
token the class token, others are registers. Blocks have the same names and the same order of queries,
keys and values. Positions are fixed here and parameters there: going out they are written down, coming
in they are left behind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs import ConfigError
from pipeline.engine.errors import RunError
from pipeline.multimae import artifact
from pipeline.multimae.groups import Group, GroupTable
from pipeline.multimae.trunk import PixelPatches, Trunk

_SHARED = ("encoder.", "blocks."), ("encoder_norm.", "norm.")


class Taken(NamedTuple):
    """What of a ViT found its place: how many tensors of blocks, in which groups its patch projection; and
    the names of what did not.
    """

    blocks: int
    patches: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        fitting, left = (", ".join(names) or "none" for names in (self.patches, self.left))
        return f"{self.blocks} tensors of blocks; patches of {fitting}; left behind: {left}"


def to_vit(trunk: Trunk, name: str) -> dict[str, Tensor]:
    """The state of `timm.models.VisionTransformer` for one group of images, without a head.

    It is made with `num_classes=0`, `in_chans` the group's bands, `class_token` and `reg_tokens` by the
    number of global tokens, and takes normalised images. Raises ValueError for a class map.
    """
    group = _group(trunk.table, name)
    patches = trunk.patches[name]
    if not isinstance(patches, PixelPatches):
        raise ValueError(f"{name} is a class map: a ViT has no embedding of classes")
    state = {
        theirs + key.removeprefix(ours): value
        for key, value in trunk.state_dict().items()
        for ours, theirs in _SHARED
        if key.startswith(ours)
    }
    state["patch_embed.proj.weight"] = _as_convolution(patches.proj.weight, group)
    state["patch_embed.proj.bias"] = patches.proj.bias
    num = trunk.config.num_global_tokens
    if trunk.global_tokens is not None:
        state["cls_token"] = trunk.global_tokens[None, :1]
        if num > 1:
            state["reg_token"] = trunk.global_tokens[None, 1:]
    places = trunk.positions.table[group.places]
    state["pos_embed"] = torch.cat([places.new_zeros(num, places.shape[1]), places])[None]
    return {k: v.detach().float().cpu().contiguous() for k, v in state.items()}


@torch.no_grad()
def from_vit(trunk: Trunk, state: Mapping[str, Tensor]) -> Taken:
    """Take over blocks, last norm, class token and registers, and the patch projection for each group of
    images whose patches and number of bands fit it.

    Raises ValueError where blocks are of another number or shape.
    """
    ours = trunk.state_dict()
    renamed = {_ours(key): value for key, value in state.items()}
    wanted = [k for k in ours if k.startswith(tuple(o for o, _ in _SHARED))]
    for key in wanted:
        if key not in renamed or renamed[key].shape != ours[key].shape:
            found = list(renamed[key].shape) if key in renamed else "nothing"
            raise ValueError(
                f"{key} is {list(ours[key].shape)}, the ViT has {found}: set multimae.width, depth, heads "
                "and mlp_ratio as it has them"
            )
        ours[key].copy_(renamed[key])
    if stray := {k for k in renamed if k.startswith("encoder.")} - set(wanted):
        raise ValueError(f"the ViT has blocks beyond multimae.depth, such as {min(stray)}")
    taken = set(wanted)
    tokens = [state[k][0] for k in ("cls_token", "reg_token") if k in state]
    if trunk.global_tokens is not None and tokens:
        found = torch.cat(tokens)[: len(trunk.global_tokens)]
        trunk.global_tokens[: len(found)] = found
        taken |= {"cls_token", "reg_token"}
    fitting = []
    weight = state.get("patch_embed.proj.weight")
    for group in trunk.table.groups:
        shape = trunk.config.width, len(group.bands), group.patch_px, group.patch_px
        patches = trunk.patches[group.name]
        if (
            weight is not None
            and tuple(weight.shape) == shape
            and isinstance(patches, PixelPatches)
        ):
            patches.proj.weight.copy_(weight.permute(0, 2, 3, 1).flatten(1))
            patches.proj.bias.copy_(state["patch_embed.proj.bias"])
            fitting.append(group.name)
    if fitting:
        taken |= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    left = tuple(k for k in state if _ours(k) not in taken)
    return Taken(len(wanted), tuple(fitting), left)


def start_from(trunk: Trunk, path: Path) -> Taken:
    """`from_vit` of a safetensors file. Raises ConfigError for one that is not there or does not fit."""
    if not path.is_file():
        raise ConfigError(f"multimae.init_vit={path}: no such file")
    try:
        return from_vit(trunk, load_file(path))
    except ValueError as error:
        raise ConfigError(f"multimae.init_vit={path}: {error}") from error


def export_vit(run: Path, name: str, out: Path) -> str:
    """Write `to_vit` of a finished run as safetensors; returns how timm makes the model.

    Raises RunError where the run has no model, or the group is none of its images.
    """
    model, about = artifact.load(artifact.find(run))
    try:
        group, state = _group(about.table, name), to_vit(model, name)
    except ValueError as error:
        raise RunError(f"{run}: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out)
    config = about.config
    side = group.grid[0] * group.patch_px
    return (
        f"timm.models.VisionTransformer(img_size={side}, patch_size={group.patch_px}, "
        f"in_chans={len(group.bands)}, num_classes=0, embed_dim={config.width}, depth={config.depth}, "
        f"num_heads={config.heads}, mlp_ratio={config.mlp_ratio:g}, "
        f"class_token={config.num_global_tokens > 0}, reg_tokens={max(0, config.num_global_tokens - 1)}, "
        "global_pool='')"
    )


def _group(table: GroupTable, name: str) -> Group:
    for group in table.groups:
        if group.name == name:
            return group
    have = ", ".join(g.name for g in table.groups)
    raise ValueError(f"no group {name}; there are {have}")


def _ours(key: str) -> str:
    for ours, theirs in _SHARED:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _as_convolution(weight: Tensor, group: Group) -> Tensor:
    """[D, p * p * C], rows then columns then bands -> [D, C, p, p]."""
    p = group.patch_px
    return weight.unflatten(1, (p, p, len(group.bands))).permute(0, 3, 1, 2)
