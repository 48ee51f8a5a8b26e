"""Optimizers by configuration, and which weights are decayed or learn more slowly."""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from configs import ConfigError
from configs.schema import OptimizerConfig

_BLOCK = re.compile(r"(?:^|[._])(?:encoder|decoder|blocks)\.(\d+)\.")

# What meets the data, at either end. Muon is for hidden matrices (Jordan et al. 2024): the size to which a
# head's weights have to grow is learned, and updates that are all of one size take long to reach it.
_END = re.compile(r"(?:^|\.)(?:from_patches|patch_proj|to_pixels|to_patches)\b")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices are; norms, biases and embedding tables (names with `embed`) are not."""
    return parameter.ndim >= 2 and "embed" not in name


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups by decay and, with layer-wise decay, by depth: the same on every rank.

    `lr_scale` of a group multiplies the scheduled rate (Clark et al. 2020, section 3.1: a factor of
    `layer_decay` per block below the head).
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    depths = _depths(n for n, _ in named)
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        depth = depths[name] if config.layer_decay < 1 else top
        decayed = is_decayed(name, parameter)
        group = groups.setdefault(
            (depth, not decayed),
            {
                "params": [],
                "weight_decay": config.weight_decay if decayed else 0.0,
                "lr_scale": config.layer_decay ** (top - depth),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names.

    Raises ConfigError when it is not installed here, saying what would have to be.
    """
    if config.name == "muon":
        return _muon(model, config)
    make: Callable[..., torch.optim.Optimizer]
    match config.name:
        case "adamw":
            make = partial(torch.optim.AdamW, fused=True)
        case "apex_adam":
            make = partial(nvidia_apex("optimizers").FusedAdam, adam_w_mode=True)
        case "deepspeed_adam":
            make = partial(_deepspeed_adam(), adam_w_mode=True)
    return make(parameter_groups(model, config), lr=config.lr, betas=config.betas, eps=config.eps)


def set_rates(optimizer: Any, factor: float, config: OptimizerConfig) -> None:
    """Give every group of an optimizer its rate for the coming update."""
    for group in optimizer.param_groups:
        peak = config.adam_lr if group.get("use_muon") is False else config.lr
        group["lr"] = peak * factor * group.get("lr_scale", 1.0)


def updating(config: OptimizerConfig, device: torch.device) -> AbstractContextManager[None]:
    """Around each update of the weights.

    DeepSpeed has torch compile Muon. On a CPU that needs a C++ compiler and ten seconds at the start
    of a run, for matrix products that are no faster afterwards.
    """
    if config.name == "muon" and device.type == "cpu":
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def nvidia_apex(part: str) -> Any:
    """A module of NVIDIA Apex. Raises ConfigError where it is missing, or is PyPI's `apex`."""
    try:
        found = import_module("apex")
    except ImportError as error:
        raise ConfigError(
            f"NVIDIA Apex is asked for and not installed ({error}); build it from "
            "https://github.com/NVIDIA/apex, or write optimizer.name=adamw and layer_norm=torch"
        ) from error
    try:
        return import_module(f"apex.{part}")
    except ImportError as error:
        raise ConfigError(
            f"{getattr(found, '__file__', 'apex')} is not NVIDIA Apex, or is built without "
            f"{part} ({error}); PyPI's `apex` is another project. Remove it and build NVIDIA's"
        ) from error


def _deepspeed_adam() -> Any:
    from deepspeed.ops import op_builder

    builder = getattr(op_builder, "FusedAdamBuilder", None)
    if not torch.cuda.is_available() or not builder or not builder().is_compatible(verbose=False):
        raise ConfigError(
            "DeepSpeed's FusedAdam is compiled at start and needs a GPU, nvcc and ninja, which are "
            "not all here; `ds_report` lists them. Or write engine.optimizer.name=adamw"
        )
    from deepspeed.ops.adam import FusedAdam

    return FusedAdam


def _muon(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    halves: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = is_decayed(name, parameter)
            by_muon = decayed and parameter.ndim == 2 and not _END.search(name)
            # DeepSpeed finds the matrices by this mark when it partitions their gradients.
            setattr(parameter, "use_muon", by_muon)  # noqa: B010 (no attribute of Parameter)
            halves.setdefault((by_muon, decayed), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (by_muon, decayed), parameters in sorted(halves.items()):
        group = {
            "params": parameters,
            "use_muon": by_muon,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        if by_muon:
            group |= {"lr": config.lr, "momentum": config.momentum}
        else:
            group |= {"lr": config.adam_lr, "betas": config.betas, "eps": config.eps}
        groups.append(group)
    return MuonWithAuxAdam(
        groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True}
    )


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Depth of each parameter: 0 before the first block, then blocks in order, the top after them.

    A decoder's blocks lie above those of the encoder.
    """
    names = list(names)
    blocks = {}
    for name in names:
        if match := _BLOCK.search(name):
            blocks[name] = "decoder" in name[: match.start(1)], int(match[1])
    num_below = 1 + max((number for above, number in blocks.values() if not above), default=-1)
    num_above = 1 + max((number for above, number in blocks.values() if above), default=-1)
    depths = {}
    for name in names:
        if name in blocks:
            above, number = blocks[name]
            depths[name] = 1 + number + (num_below if above else 0)
        else:
            embeds = "embed" in name or "patch_proj" in name
            depths[name] = 0 if embeds else 1 + num_below + num_above
    return depths
