"""Tables of codes at the start of training: all of one size, and alike where codes count something.

Place and time are few tokens that a sample has once, against hundreds of every map: learned from nothing,
the row of a latitude would know nothing of its neighbour's. Random Fourier features (Rahimi and Recht
2007) of the count make rows of one run the more alike the nearer they are, and still tell all apart.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def init_codes(table: Tensor, runs: Iterable[tuple[int, int]] = ()) -> None:
    """Fill a table [V, D] with rows of about unit length; `runs` are (first row, length) of what counts."""
    nn.init.normal_(table, std=table.shape[1] ** -0.5)
    for first, length in runs:
        rows = counting_rows(length, table.shape[1])
        table[first : first + length] = rows.to(table.dtype)


def counting_rows(length: int, width: int) -> Tensor:
    """[length, width] of about unit length: waves of random phase, from two steps to two runs long."""
    longest = 2 * length
    waves_per_step = torch.exp(torch.rand(width) * math.log(longest / 2)) / longest
    turns = torch.arange(length)[:, None] * waves_per_step + torch.rand(width)
    return (2 / width) ** 0.5 * torch.cos(2 * math.pi * turns)
