"""What a loss does to the parameters of a model."""

from typing import Any

import torch
from torch import Tensor, nn


def gradients_of(model: nn.Module, *batches: Any) -> dict[str, Tensor]:
    """Of the summed losses of these batches, added up."""
    model.zero_grad()
    for batch in batches:
        model(batch).loss.sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert set(found) == {n for n, _ in model.named_parameters()}
    return found


def check_mixed_batch(model: nn.Module, together: Any, alone: list[Any], atol: float) -> None:
    """The gradients of a batch are those of its samples, one by one."""
    expected = gradients_of(model, *alone)
    for name, gradient in gradients_of(model, together).items():
        torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=1e-5)


def order_of_use(model: nn.Module, batch: Any) -> list[str]:
    """The parameters in the order in which their gradients become ready."""
    seen: list[str] = []
    handles = [
        p.register_post_accumulate_grad_hook(lambda _, n=n: seen.append(n))
        for n, p in model.named_parameters()
    ]
    model(batch).loss.sum().backward()
    for handle in handles:
        handle.remove()
    return seen
