"""From a model and a configuration to an engine, in one fixed order.

fused norms -> activation checkpointing -> compile -> DeepSpeed or plain torch
"""

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

from configs.schema import EngineConfig, OffloadConfig
from pipeline.engine.base import Engine
from pipeline.engine.distributed import World
from pipeline.engine.objective import Objective
from pipeline.engine.optimizer import nvidia_apex
from pipeline.engine.pair import PairEngine
from pipeline.layers.blocks import DecoderBlock, EncoderBlock, MlpBlock


def build_engine(model: nn.Module, config: EngineConfig, world: World, num_micro: int) -> Engine:
    """The engine of one rank. Raises ConfigError when something asked for is not installed."""
    if config.layer_norm == "apex":
        use_fused_norms(model)
    if config.activation_checkpointing:
        use_checkpointing(model)
    if config.compile:
        for block in _blocks(model):
            block.compile()
    if config.kind == "plain":
        from pipeline.engine.plain import PlainEngine

        return PlainEngine(model, config, world)
    # DeepSpeed takes seconds to import; the plain engine does without.
    from pipeline.engine.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(model, config, world, num_micro)


def build_engines(
    objective: Objective, config: EngineConfig, world: World, num_micro: int
) -> Engine:
    """The engine of an objective: of its model, and of its critic beside it where it has one."""
    engine = build_engine(objective.model, config, world, num_micro)
    if objective.critic is None:
        return engine
    optimizer = config.optimizer.model_copy(
        update={"lr": config.optimizer.lr * objective.critic.lr_ratio}
    )
    changes = {
        "optimizer": optimizer,
        # The model's loss looks through the critic, whose weights must be there all the time.
        "zero_stage": min(config.zero_stage, 2),
        "offload": OffloadConfig(),
        "activation_checkpointing": False,
        "compile": False,
        "ema_decay": 0.0,
    }
    critic = build_engine(
        objective.critic.model, config.model_copy(update=changes), world, num_micro
    )
    return PairEngine(engine, critic)


def use_checkpointing(model: nn.Module) -> int:
    """Keep of each block its input alone, and compute the rest again going backward.

    Returns how many blocks that are.
    """
    blocks = list(_blocks(model))
    for block in blocks:
        # Around the block's own forward: hooks on the block, such as ZeRO-3's, run once.
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    kinds = (EncoderBlock, DecoderBlock, MlpBlock)
    return (m for m in model.modules() if isinstance(m, kinds))


def use_fused_norms(model: nn.Module) -> None:
    """Put NVIDIA Apex's FusedLayerNorm in the place of every LayerNorm, with the same parameters.

    Raises ConfigError without NVIDIA Apex.
    """
    fused = nvidia_apex("normalization").FusedLayerNorm
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.LayerNorm:
                norm = fused(child.normalized_shape, eps=child.eps)
                norm.weight, norm.bias = child.weight, child.bias
                setattr(parent, name, norm)
