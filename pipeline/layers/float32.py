"""Buffers that keep full precision when the module around them is cast."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class Float32Buffers(nn.Module):
    """A module whose own float32 buffers stay float32: they change device, never type.

    DeepSpeed and `.bfloat16()` cast a whole model. Statistics of the data, averages over many steps and
    noise schedules do not survive 8 bits of mantissa: 3163.0 becomes 3168. Values are kept, not cast
    there and back. Buffers of submodules and parameters are left to their owners.

    Use: `class Scaler(Float32Buffers)` instead of `class Scaler(nn.Module)`.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        kept = {k: b for k, b in self._buffers.items() if b is not None}
        super()._apply(fn, *args, **kwargs)
        for name, before in kept.items():
            after = self._buffers[name]
            if before.dtype == torch.float32 and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self
