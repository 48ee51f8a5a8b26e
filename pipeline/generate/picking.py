"""How tokens are drawn from what the model proposes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Schedule = Literal["maskgit", "roar"]
Shape = Literal["cosine", "linear"]


@dataclass(frozen=True)
class Sampling:
    """Rounds, randomness and guidance of a draw.

    A map is filled in `steps` rounds, whose sizes follow `shape`: `maskgit` keeps the most certain of
    all open tokens (Chang et al. 2022), `roar` goes through the places in random order (4M). Texts are
    written token by token. Each token comes from the `top_k` most likely (0: all) that make up `top_p`
    of the probability, at a `temperature` (0: the most likely).

    `guidance` w moves the logits to u + w (c - u), c given the sources and u given none of them (Ho and
    Salimans 2022, eq. 6; 1: no guidance). With `guidance_by`, from a source's stream to its weight, it
    is u + sum of w_i (c_i - u), c_i given source i alone (Liu et al. 2022, eq. 12).
    """

    steps: int
    temperature: float
    seed: int
    num_draws: int = 1
    schedule: Schedule = "maskgit"
    shape: Shape = "cosine"
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_by: Mapping[int, float] = field(default_factory=dict)


def known_after(total: int, steps: int, shape: Shape) -> list[int]:
    """How many of `total` tokens are known after each round: strictly more each time, all at the end.

    `cosine` starts with few, while little is known, and ends with many.
    """
    steps = min(steps, total)
    counts: list[int] = []
    for step in range(1, steps + 1):
        share = step / steps if shape == "linear" else 1 - math.cos(math.pi / 2 * step / steps)
        least = counts[-1] + 1 if counts else 1
        counts.append(min(max(round(total * share), least), total - (steps - step)))
    return counts


def pick(logits: Tensor, how: Sampling, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One code per row and how likely the model held it: [T, V] -> int64 [T], float64 [T].

    One uniform number per row is turned into a code by the inverse of the cumulative probabilities, so
    that rounding errors of a batch hardly ever change what is drawn.
    """
    log_p = torch.log_softmax(logits.double(), -1)
    if how.temperature == 0:
        codes = log_p.argmax(-1)
    else:
        p = torch.softmax(_kept(log_p / how.temperature, how), -1)
        # What is left out has exactly no probability, and is never the first to exceed the number.
        u = torch.from_numpy(rng.random(len(p)))[:, None]
        above = p.cumsum(-1)
        codes = (above <= u * above[:, -1:]).sum(-1)
    certainty = log_p.gather(1, codes[:, None])[:, 0].exp()
    return codes.numpy(), certainty.numpy()


def _kept(logits: Tensor, how: Sampling) -> Tensor:
    """Logits with -inf where top-k and top-p leave a code out; the most likely always stays."""
    if 0 < how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if how.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        p = torch.softmax(ordered, -1)
        beyond = p.cumsum(-1) - p >= how.top_p
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    return logits
