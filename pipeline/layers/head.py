"""The vocabulary head and its cross-entropy in one, without keeping the logits.

A head of 15,360 codes makes logits forty times as large as the features they come from. Here a chunk of
rows goes through product, softmax and both gradients while it lies in cache, and only the gradients stay: no
[T, V] tensor is ever whole, and nothing is computed twice.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = {"cpu": 1024, "cuda": 4096}


class HeadLoss(NamedTuple):
    """Of T rows: `loss` [T] is weighted and has the gradient; the others are plain.

    `entropy` [T] is the cross-entropy in nats, `right` [T] is 1 where the goal is on top (0 everywhere
    where that was not asked for).
    """

    loss: Tensor
    entropy: Tensor
    right: Tensor


def head_loss(
    features: Tensor,
    rows: Tensor,
    goal: Tensor,
    weight: Tensor,
    z_loss: float = 0.0,
    *,
    count_right: bool = False,
) -> HeadLoss:
    """Weighted cross-entropy of `features @ rows.T` against `goal`, in fp32.

    Args:
        features: [T, D].
        rows: [V, D], the head's weights.
        goal: int64 [T], codes in [0, V).
        weight: [T], of each row in the loss; no gradient flows to it.
        z_loss: times logsumexp(logits)^2 is added to the cross-entropy (PaLM, section 5).
        count_right: one more pass over the logits.

    Returns:
        The losses; of them, only a sum may be differentiated, times any factor: gradients that differ
        from row to row are refused (put what differs into `weight`).
    """
    device = features.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        features, rows = features.to(kind), rows.to(kind)
    wants = (count_right, torch.is_grad_enabled())
    loss, entropy, right = _HeadLoss.apply(features, rows, goal, weight, z_loss, *wants)
    return HeadLoss(loss, entropy, right)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        rows: Tensor,
        goal: Tensor,
        weight: Tensor,
        z_loss: float,
        count_right: bool,
        learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Softmax, and sums over thousands of rows, are fp32 at least, whatever the type of the products.
        exact = torch.promote_types(rows.dtype, torch.float32)
        weight = weight.to(exact)
        loss, entropy, right = weight.new_zeros(3, len(goal)).unbind()
        grad_features = torch.empty_like(features) if learns else None
        grad_rows = torch.zeros_like(rows, dtype=exact) if learns else None
        for part in _chunks(len(goal), features.device.type):
            x, wanted, w = features[part], goal[part], weight[part]
            logits = F.linear(x, rows).to(exact)
            if count_right:
                right[part] = (logits.argmax(-1) == wanted).to(exact)
            log_z = logits.logsumexp(-1)
            entropy[part] = log_z - logits.gather(1, wanted[:, None])[:, 0]
            loss[part] = w * (entropy[part] + z_loss * log_z**2)
            if grad_features is None or grad_rows is None:
                continue
            # d/dlogits of w (log_z - logits[goal] + z log_z^2), written over the logits.
            gradient = logits.sub_(log_z[:, None]).exp_()
            gradient.mul_((w * (1 + 2 * z_loss * log_z))[:, None])
            gradient.scatter_add_(1, wanted[:, None], -w[:, None])
            gradient = gradient.to(rows.dtype)
            torch.mm(gradient, rows, out=grad_features[part])
            if rows.dtype == exact:
                grad_rows.addmm_(gradient.T, x)
            else:
                grad_rows += gradient.T @ x
        if grad_features is not None and grad_rows is not None:
            ctx.save_for_backward(grad_features, grad_rows.to(rows.dtype))
        ctx.mark_non_differentiable(entropy, right)
        return loss, entropy, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        upstream = outputs[0]
        grad_features, grad_rows = ctx.saved_tensors
        if not len(upstream):
            return grad_features, grad_rows, *[None] * 5
        factor = upstream[0]
        torch.ops.aten._assert_async.msg(  # on a GPU nobody waits for the answer
            (upstream == factor).all() | ~upstream.isfinite().all(),
            "the rows of a head's loss must be summed with one factor; put others into `weight`",
        )
        return grad_features * factor, grad_rows * factor, *[None] * 5


def _chunks(total: int, device: str) -> Iterator[slice]:
    size = CHUNK_ROWS.get(device, CHUNK_ROWS["cuda"])
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
