"""What the training loop asks of an engine, and of how a model's state is cut into pieces.

An engine owns a model, its optimizer and the numbers of the ranks. Its state is a set of named
tensors (`weights/NAME`, `exp_avg/NAME`, `buffers/NAME`, ...), of which each rank keeps pieces. The
names and their whole shapes do not depend on the number of ranks or on the ZeRO stage, only the
cuts do: that is why a commit can be read by any number of ranks under any stage.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput, Sums

Scalars = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What this rank keeps of one named tensor.

    `tensor` is the live memory, one-dimensional; it holds elements [start, start + len) of the
    flattened whole, whose shape is `shape`.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    tensor: Tensor

    @property
    def stop(self) -> int:
        return self.start + self.tensor.numel()


@dataclass(frozen=True)
class StepInfo:
    """How an update went. Not `applied`: nothing changed, on any rank. `grad_norm` is before clipping."""

    applied: bool
    grad_norm: float


@dataclass(frozen=True)
class Forward:
    """One micro-batch after forward and backward: what a StepOutput has, and its loss as a promise.

    `loss` reads the sum of the losses of this rank's samples. On a GPU it waits for the forward pass
    alone, while the backward pass goes on.
    """

    sums: Sums
    loss: "Promise"
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    judged: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, output: StepOutput, loss: "Promise") -> "Forward":
        return cls(output.sums, loss, output.stats, output.rows, output.judged)


class Promise(Protocol):
    """A number that is there when it is asked for."""

    def get(self) -> float: ...


class HostValue:
    """One number on its way from a device to the host."""

    def __init__(self, value: Tensor):
        value = value.detach()
        self._event = None
        if value.is_cuda:
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._value = value

    def get(self) -> float:
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)


class Engine(Protocol):
    """A model under training. Every method is called by all ranks, in the same order."""

    @property
    def model(self) -> nn.Module:
        """The bare module; call it, and read its weights inside `whole_model` only."""
        ...

    def forward_backward(self, batch: Batch) -> Forward:
        """Add the gradient of one micro-batch; the loss is a mean over the *global* batch."""
        ...

    def step(self, lr_factor: float, *, skip: bool = False, max_norm: float = 0.0) -> StepInfo:
        """Update the weights after the last micro-batch.

        `skip` drops the gradient instead, and so does a gradient whose norm is not finite or exceeds
        `max_norm` (0: no limit).
        """
        ...

    def pieces(self, *, owned: bool) -> Iterator[Piece]:
        """This rank's part of the state: what it answers for (`owned`), or all that it holds."""
        ...

    def scalars(self) -> Scalars:
        """The numbers of the optimizer that are not tensors of a parameter's shape."""
        ...

    def allocate(self, kinds: Mapping[str, set[str]], scalars: Scalars) -> None:
        """Make room for what a commit holds: `kinds` maps a parameter to its optimizer's tensors."""
        ...

    def refresh(self) -> None:
        """Make the model's weights follow the pieces after something was written into them."""
        ...

    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """Let the model learn from what was collected over the global batch (see StepOutput)."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the averaged weights, where the engine keeps an average."""
        ...

    def whole_model(self) -> AbstractContextManager[None]:
        """Inside, every rank can read all weights of the model."""
        ...

    def describe(self) -> str:
        """One line on what runs the training."""
        ...
