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
    code is at each place of maps, given the sources and, in a chain, the first draw of what is finished.
    Raises ConfigError for a chain over a target that the model takes no tokens of.
    """
    layout = model.layout
    if chained:
        check_chain(layout, targets)
    found: dict[int, Drawn] = {}
    states = [contents] * (how.num_draws if chained else 1)
    for target in targets:
        wants_expected = expected and layout.streams[target].kind == "map"
        likely = expected_tokens(model, states[0], target, how) if wants_expected else None
        if not chained:
            # The expected codes are the whole answer where they are asked for.
            draws = [] if likely else generate_tokens(model, contents, ids, target, how)
            found[target] = Drawn(draws, likely)
            continue
        draws = [
            draw_tokens(model, state, ids, target, how, number)
            for number, state in enumerate(states)
        ]
        found[target] = Drawn(draws, likely)
        if target != targets[-1]:
            states = [
                _with(state, target, codes) for state, codes in zip(states, draws, strict=True)
            ]
    return found


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
