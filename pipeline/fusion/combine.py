"""One vector per stream -> one for all of them, whichever are there.

Shapes: B batch, K targets, S input streams, D width. `there` is bool [B, S].
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Side by side through a linear layer; a stream that is missing has a learned vector instead."""

    def __init__(self, num_streams: int, width: int):
        super().__init__()
        self.missing_embed = nn.Parameter(torch.zeros(num_streams, width))
        self.proj = nn.Linear(num_streams * width, width)

    def forward(self, streams: list[Tensor], there: Tensor, query: Tensor) -> Tensor:
        """S vectors [B, K, D] and what is asked for [B, K, D] -> [B, K, D]."""
        x = torch.stack(streams, 2)
        return self.proj(
            torch.where(there[:, None, :, None], x, self.missing_embed.to(x.dtype)).flatten(2)
        )


class Mean(nn.Module):
    """The mean over the streams that are there."""

    def forward(self, streams: list[Tensor], there: Tensor, query: Tensor) -> Tensor:
        """As in Concat."""
        share = there / there.sum(1, keepdim=True).clamp(min=1)
        return (torch.stack(streams, 2) * share.to(query.dtype)[:, None, :, None]).sum(2)


class Gated(nn.Module):
    """A softmax over the streams that are there weighs them.

    Its logits are a sum: what each stream says of itself, and what the target asks for.
    """

    def __init__(self, num_streams: int, width: int):
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(width, 1) for _ in range(num_streams))
        self.asked = nn.Linear(width, num_streams)

    def forward(self, streams: list[Tensor], there: Tensor, query: Tensor) -> Tensor:
        """As in Concat."""
        own = [gate(x) for gate, x in zip(self.own, streams, strict=True)]
        logits = torch.cat(own, -1) + self.asked(query)
        # Where nothing is there the weights mean nothing, and neither do the zeros that they weigh.
        logits = logits.masked_fill(~there[:, None], torch.finfo(logits.dtype).min)
        weights = logits.softmax(-1) * there[:, None]
        return (torch.stack(streams, 2) * weights.to(query.dtype)[..., None]).sum(2)


COMBINERS: dict[str, Callable[[int, int], nn.Module]] = {
    "concat": Concat,
    "mean": lambda num_streams, width: Mean(),
    "gated": Gated,
}
