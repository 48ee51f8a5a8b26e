"""An exponential moving average of the weights, kept as one more tensor of the optimizer's state.

It lives where the fp32 weights live, cut like them over the ranks, and is committed and read back
like the optimizer's own moments.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

KEY = "average"
Master = tuple[Tensor, MutableMapping[str, Any]]
"""A tensor of fp32 weights and the optimizer's state for it."""


@torch.no_grad()
def update(
    masters: Iterable[Master], decay: float, copy: Callable[[Tensor], Tensor] = torch.clone
) -> None:
    """Average <- decay * average + (1 - decay) * weights; it starts as a copy of the weights."""
    averages, weights = [], []
    for weight, state in masters:
        if KEY not in state:
            state[KEY] = copy(weight.detach())
        else:
            averages.append(state[KEY])
            weights.append(weight.detach())
    if averages:
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def swapped(masters: Iterable[Master]) -> Iterator[None]:
    """Weights and average change places inside."""
    held = [(w, s[KEY]) for w, s in masters if KEY in s]
    _swap(held)
    try:
        yield
    finally:
        _swap(held)


@torch.no_grad()
def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for weight, average in pairs:
        kept = weight.detach().clone()
        weight.copy_(average)
        average.copy_(kept)
