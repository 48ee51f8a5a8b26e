"""Which tokens of a sample the model sees and which it is asked for.

Budgets are shared out over the streams that are present by a symmetric Dirichlet draw (4M, Mizrahi
et al. 2023, section 3.2): small alpha gives nearly everything to one stream, large alpha spreads it.
A stream that is absent has no tokens to give, so its share goes to the others; no token is ever both
input and target.
"""

from dataclasses import dataclass

import numpy as np

from configs.schema import MaskedConfig
from pipeline.stage2.layout import Layout


@dataclass(frozen=True)
class Selection:
    """Chosen places, per stream index: int64 arrays of positions within the stream."""

    inputs: dict[int, np.ndarray]
    targets: dict[int, np.ndarray]


def draw_budget(
    rng: np.random.Generator, capacity: np.ndarray, total: int, alpha: float
) -> np.ndarray:
    """Share `total` tokens out over streams, int64 [M], by a Dirichlet draw.

    Never more than a stream's `capacity`; what one cannot take the others get, so that the sum is
    exactly min(total, capacity.sum()). Streams without capacity get nothing.
    """
    budget = np.zeros(len(capacity), dtype=np.int64)
    open_ = np.flatnonzero(capacity > 0)
    if len(open_) == 0:
        return budget
    weights = rng.dirichlet(np.full(len(open_), alpha))
    weights = np.nan_to_num(weights) + 1e-9  # tiny alphas can underflow to 0/0
    left = min(total, int(capacity.sum()))
    while left > 0:
        room = capacity[open_] - budget[open_]
        weights = np.where(room > 0, weights, 0.0)
        share = np.floor(weights / weights.sum() * left).astype(np.int64)
        if not share.any():
            # Fewer tokens than streams with room: one each to the largest shares.
            first = np.argsort(-weights, kind="stable")[:left]
            share[first[room[first] > 0]] = 1
        share = np.minimum(share, room)
        budget[open_] += share
        left -= int(share.sum())
    return budget


def select(
    rng: np.random.Generator, layout: Layout, available: np.ndarray, config: MaskedConfig
) -> Selection:
    """Choose inputs and targets among the `available` tokens of each stream, int64 [M].

    A text is either read (its beginning, as far as the budget goes) or written (from its beginning),
    never both.
    """
    streams = layout.streams
    seen, asked = np.zeros_like(available), np.zeros_like(available)
    for i, stream in enumerate(streams):
        role = rng.integers(2) if stream.kind == "sequence" else 0
        if stream.is_input and not (stream.is_target and role == 1):
            seen[i] = available[i]
        if stream.is_target and not (stream.is_input and stream.kind == "sequence" and role == 0):
            asked[i] = available[i]
    lone = [i for i in layout.pixels if seen[i]]
    if lone and rng.random() < config.single_input_share:
        seen[np.arange(len(seen)) != rng.choice(lone)] = 0
    alpha = float(rng.choice(config.alpha_input))
    num_inputs = draw_budget(rng, seen, config.num_input_tokens, alpha)
    for i, stream in enumerate(streams):
        if stream.kind in ("map", "set") and asked[i]:
            asked[i] -= num_inputs[i]
    alpha = float(rng.choice(config.alpha_target))
    num_targets = draw_budget(rng, asked, config.num_target_tokens, alpha)

    inputs, targets = {}, {}
    for i, stream in enumerate(streams):
        n, k = int(num_inputs[i]), int(num_targets[i])
        if not n and not k:
            continue
        if stream.kind == "sequence":
            places = np.arange(available[i])
            chosen, wanted = places[:n], places[:k]
        else:
            places = rng.permutation(available[i])
            chosen, wanted = places[:n], places[n : n + k]
        if n:
            inputs[i] = chosen
        if k:
            targets[i] = wanted
    return Selection(inputs, targets)
