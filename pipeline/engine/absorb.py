"""What a model learns without gradients, such as a codebook that follows the latents.

    forward: stats, rows of each micro-batch -> summed and gathered over the ranks -> model.absorb

Only sums over samples and rows in stream order reach the model, so that it learns the same however a
batch is cut over ranks and micro-batches. Nothing is absorbed from a step that was dropped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.base import Engine, Forward
from pipeline.engine.distributed import World


@torch.no_grad()
def learn(engine: Engine, outputs: Sequence[Forward], world: World) -> None:
    """Collect over the global batch and let the engine's model absorb it. All ranks must call it."""
    names, rows = outputs[0].stats.keys(), outputs[0].rows.keys()
    if not names and not rows:
        return
    stats = {
        name: sum((o.stats[name] for o in outputs[1:]), outputs[0].stats[name]) for name in names
    }
    gathered = {
        name: world.concatenate(torch.cat([o.rows[name] for o in outputs])) for name in rows
    }
    engine.absorb(world.sum_on_device(stats), gathered)


@torch.no_grad()
def absorb(model: nn.Module, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
    """The model's own `absorb`, which a model that collects something has."""
    learner: Any = model
    learner.absorb(stats, rows)
