"""Several targets, one after the other: what is finished becomes input of what follows.

Without it, each target is drawn from the sources alone. In a chain the second target agrees with the
first, because the model sees it; so can a model be made to "think in modalities" before a head looks at
its input (Jakubik et al. 2025): `think` adds generated tokens to a sample's content.
"""

from dataclasses import dataclass

import numpy as np
import torch

from configs import ConfigError
from pipeline.generate.picking import Sampling
from pipeline.generate.sampler import Tokens, draw_tokens, expected_tokens, generate_tokens
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content


@dataclass(frozen=True)
class Drawn:
    """Of one target: per draw the codes per sample, and where asked for the expected codes [N, V]."""

    draws: list[Tokens]
    expected: list[torch.Tensor] | None = None


def generate_targets(
    model: MaskedTransformer,
    contents: list[Content],
    ids: list[int],
    targets: list[int],
    how: Sampling,
    *,
    chained: bool = False,
    expected: bool = False,
) -> dict[int, Drawn]:
    """All targets for each sample, from the sources alone or `chained`, in the order given.

    Draw number d of a target follows draw number d of those before it. `expected` adds how likely each
    code is at each place of maps, given the sources and, in a chain, what is finished: the mean over its
    draws. Where it is the whole answer nothing is drawn.
    Raises ConfigError for a chain over a target that the model takes no tokens of.
    """
    layout = model.layout
    if chained:
        check_chain(layout, targets)
    found: dict[int, Drawn] = {}
    states = [contents]
    for target in targets:
        wants_expected = expected and layout.streams[target].kind == "map"
        likely = _likely(model, states, target, how) if wants_expected else None
        is_followed = chained and target != targets[-1]
        if likely and not is_followed:
            found[target] = Drawn([], likely)
            continue
        if not chained:
            found[target] = Drawn(generate_tokens(model, contents, ids, target, how))
            continue
        if len(states) == 1:
            states *= how.num_draws
        draws = [
            draw_tokens(model, state, ids, target, how, number)
            for number, state in enumerate(states)
        ]
        found[target] = Drawn(draws, likely)
        if is_followed:
            states = [
                _with(state, target, codes) for state, codes in zip(states, draws, strict=True)
            ]
    return found


def _likely(
    model: MaskedTransformer, states: list[list[Content]], target: int, how: Sampling
) -> list[torch.Tensor]:
    """Per sample [N, V], the mean over the states that its draws have led to."""
    each = [expected_tokens(model, state, target, how) for state in states]
    return [torch.stack(rows).mean(0) for rows in zip(*each, strict=True)]


def think(
    model: MaskedTransformer,
    contents: list[Content],
    ids: list[int],
    targets: list[int],
    how: Sampling,
) -> list[Content]:
    """Contents with generated tokens of the targets beside what was there, for a head to look at."""
    check_chain(model.layout, targets)
    for target in targets:
        contents = _with(contents, target, draw_tokens(model, contents, ids, target, how, 0))
    return contents


def check_chain(layout: Layout, targets: list[int]) -> None:
    """Raises ConfigError where a target that others follow could not be input."""
    for target in targets[:-1]:
        stream = layout.streams[target]
        if not stream.is_input:
            raise ConfigError(
                f"chain: the model takes no tokens of {stream.modality}, so nothing can follow from it; "
                f"put {stream.modality} last, or train with it in masked.tokens"
            )


def _with(contents: list[Content], target: int, codes: list[np.ndarray]) -> list[Content]:
    pairs = zip(contents, codes, strict=True)
    return [c.with_streams({**c.streams, target: values}) for c, values in pairs]
