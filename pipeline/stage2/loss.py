"""The loss of masked tokens and what is logged of it, for any model that has features of target slots.

Shapes: B batch, K target slots, D width, V codes of one stream, S streams.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from configs.schema import MaskedConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import TOKENS, StepOutput, Sums
from pipeline.layers.head import head_loss
from pipeline.layers.uncertainty import weigh_by_uncertainty
from pipeline.stage2.layout import Layout

MOST_INPUTS = 4
"""Samples that see as many modalities or more are counted together."""


def masked_loss(
    features: Tensor,
    batch: Batch,
    layout: Layout,
    config: MaskedConfig,
    head: Callable[[int], Tensor],
    log_variance: Tensor | None = None,
    *,
    evaluate: bool = False,
) -> StepOutput:
    """Losses of samples from features [B, K, D], and sums per target stream.

    `head(i)` gives the rows [V, D] that predict stream i; `log_variance` [S] weighs streams by learned
    uncertainty. Evaluating, the sums tell also how many codes were right, and cross-entropy and
    accuracy by the number of modalities that a sample saw.
    """
    b, k, d = features.shape
    flat = features.reshape(b * k, d)
    per_sample = torch.zeros(b, device=flat.device)
    entropy, right = torch.zeros_like(per_sample), torch.zeros_like(per_sample)
    sums: Sums = {}
    for i in layout.targets:
        name = layout.streams[i].name
        goal, slot = batch[f"goal/{name}"], batch[f"goal_slot/{name}"]
        weight = batch[f"goal_weight/{name}"]
        found = head_loss(flat[slot], head(i), goal, weight, config.z_loss, count_right=evaluate)
        loss = found.loss
        if log_variance is not None:
            loss = weigh_by_uncertainty(loss, log_variance[i], weight)
        per_sample = per_sample.index_add(0, slot // k, loss.to(per_sample.dtype))
        sums[f"ce/{name}"] = found.entropy.sum()
        sums[f"tokens/{name}"] = found.entropy.new_tensor(len(goal))
        if evaluate:
            sums[f"right/{name}"] = found.right.sum()
            entropy.index_add_(0, slot // k, (weight * found.entropy).to(entropy.dtype))
            right.index_add_(0, slot // k, (weight * found.right).to(right.dtype))
    sums["loss"] = per_sample.sum().detach()
    sums["count"] = per_sample.new_tensor(b)
    num_tokens = (batch["in_stream"] >= 0).sum() + (batch["out_stream"] >= 0).sum()
    sums[TOKENS] = num_tokens.float()
    if evaluate:
        sums |= _by_inputs(entropy, right, batch, layout)
    return StepOutput(per_sample, sums)


def num_inputs(batch: Batch, layout: Layout) -> Tensor:
    """How many modalities each sample sees, in whatever form: int64 [B]."""
    names = [s.modality for s in layout.streams]
    seen = [
        torch.stack([batch["in_stream"] == i for i, n in enumerate(names) if n == name]).any(0)
        for name in dict.fromkeys(names)
    ]
    return torch.stack(seen).any(-1).sum(0)


def summarise_inputs(sums: Sums) -> dict[str, float]:
    """Of held-out sums, the mean cross-entropy and accuracy of samples that see 0, 1, 2, ... modalities."""
    values = {}
    for n in range(MOST_INPUTS + 1):
        count = float(sums.get(f"inputs/{n}/count", 0))
        if count:
            for what in ("ce", "accuracy"):
                values[f"inputs/{n}/{what}"] = float(sums[f"inputs/{n}/{what}"]) / count
    return values


def _by_inputs(entropy: Tensor, right: Tensor, batch: Batch, layout: Layout) -> Sums:
    """Sums over samples of [B] weighted means over their targets, by the number of inputs."""
    counted = num_inputs(batch, layout).clamp(max=MOST_INPUTS)
    sums: Sums = {}
    for n in range(MOST_INPUTS + 1):
        mine = (counted == n).to(entropy.dtype)
        sums[f"inputs/{n}/count"] = mine.sum()
        sums[f"inputs/{n}/ce"] = (mine * entropy).sum()
        sums[f"inputs/{n}/accuracy"] = (mine * right).sum()
    return sums
