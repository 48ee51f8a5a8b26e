"""Drawing the tokens of a modality from a trained stage-2 model.

Maps, places and dates are filled in a few rounds (MaskGIT, Chang et al. 2022): each round the model
proposes all open tokens, the most certain are kept and become input of the next round. Sequences
are written token by token. What is drawn depends on (seed, sample), never on the batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.tokens import EOS
from pipeline.engine.distributed import to_device
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate

Draws = list[list[np.ndarray]]


@dataclass(frozen=True)
class Sampling:
    """`steps` rounds per modality; `temperature` 0 takes the most likely token; several draws."""

    steps: int
    temperature: float
    seed: int
    num_draws: int = 1


@torch.no_grad()
def generate_tokens(
    model: MaskedTransformer, contents: list[Content], ids: list[int], target: int, how: Sampling
) -> Draws:
    """Tokens of the target stream for each sample, given everything in its content.

    Args:
        model: a trained model, in eval mode.
        contents: the input streams of each sample; the target stream must not be among them.
        ids: a number that names each sample, for its random draws.
        target: index of the stream to generate.
        how: rounds, temperature, seed, number of draws. Sequences are drawn once.

    Returns:
        For each draw the codes per sample, int64 [num_positions], or up to and with `[EOS]` for
        sequences.
    """
    is_sequence = model.layout.streams[target].kind == "sequence"
    draws = [
        [
            np.random.Generator(np.random.Philox(key=[how.seed, (i << 16) + (d << 8) + target]))
            for i in ids
        ]
        for d in range(1 if is_sequence else how.num_draws)
    ]
    if is_sequence:
        return [_write(model, contents, target, how, draws[0])]
    # Nothing is known before the first round, so all draws share its proposal.
    total = model.layout.streams[target].num_positions
    nothing = [np.zeros(total, dtype=np.int64) for _ in contents]
    first = _propose(model, contents, target, nothing, [np.arange(total)] * len(contents))
    return [_fill(model, contents, target, how, rngs, first) for rngs in draws]


@torch.no_grad()
def expected_tokens(model: MaskedTransformer, contents: list[Content], target: int) -> list[Tensor]:
    """How likely each code is at each place, given the content alone: per sample [N, V] on the CPU.

    Not for sequences, whose tokens depend on those before them.
    """
    total = model.layout.streams[target].num_positions
    nothing = [np.zeros(total, dtype=np.int64) for _ in contents]
    logits = _propose(model, contents, target, nothing, [np.arange(total)] * len(contents))
    return [rows.softmax(-1) for rows in logits]


def _fill(
    model: MaskedTransformer,
    contents: list[Content],
    target: int,
    how: Sampling,
    rngs: list[np.random.Generator],
    first: list[Tensor],
) -> list[np.ndarray]:
    total = model.layout.streams[target].num_positions
    codes = [np.zeros(total, dtype=np.int64) for _ in contents]
    known = [np.zeros(total, dtype=bool) for _ in contents]
    logits = first
    steps = min(how.steps, total)
    for step in range(steps):
        if step > 0:
            logits = _propose(model, contents, target, codes, [np.flatnonzero(~k) for k in known])
        # Cosine schedule: few tokens while little is known, many at the end.
        share = 1 - math.cos(math.pi / 2 * (step + 1) / steps)
        goal = total if step == steps - 1 else max(round(total * share), step + 1)
        for i, (rows, rng) in enumerate(zip(logits, rngs, strict=True)):
            places = np.flatnonzero(~known[i])
            drawn, certainty = _draw(rows, how.temperature, rng)
            best = np.argsort(-certainty, kind="stable")[: goal - int(known[i].sum())]
            codes[i][places[best]] = drawn[best]
            known[i][places[best]] = True
    return codes


def _write(
    model: MaskedTransformer,
    contents: list[Content],
    target: int,
    how: Sampling,
    rngs: list[np.random.Generator],
) -> list[np.ndarray]:
    stream = model.layout.streams[target]
    limit = stream.num_positions
    written = [np.zeros(0, dtype=np.int64) for _ in contents]
    open_ = list(range(len(contents)))
    while open_:
        # The last place is the one asked for; its own value is never read.
        drafts = [np.append(written[i], 0) for i in open_]
        logits = _propose(
            model, [contents[i] for i in open_], target, drafts, [np.arange(len(d)) for d in drafts],
            as_input=False,
        )  # fmt: skip
        for i, rows in zip(open_, logits, strict=True):
            # The whole text is one span: no sentinel comes after the one it starts from.
            words = rows[-1:, : stream.first_sentinel]
            token, _ = _draw(words, how.temperature, rngs[i])
            written[i] = np.append(written[i], token)
        open_ = [i for i in open_ if written[i][-1] != EOS and len(written[i]) < limit]
    return written


def _propose(
    model: MaskedTransformer,
    contents: list[Content],
    target: int,
    codes: list[np.ndarray],
    asked: list[np.ndarray],
    as_input: bool = True,
) -> list[Tensor]:
    """Logits at the asked places of each sample; other places of `codes` are input."""
    masked = []
    for content, values, places in zip(contents, codes, asked, strict=True):
        inputs = {i: np.arange(len(v)) for i, v in content.streams.items()}
        given = np.setdiff1d(np.arange(len(values)), places)
        if as_input and len(given):
            inputs[target] = given
        starts = {}
        if model.layout.streams[target].num_sentinels:
            # A text to be written is one dropped span: a sentinel in its place.
            inputs[target], starts[target] = np.array([-1]), 0
        streams = {**content.streams, target: values}
        chosen = Selection(dict(sorted(inputs.items())), {target: places}, starts)
        masked.append(Masked(Content(streams), chosen))
    num_inputs = max(sum(map(len, m.selection.inputs.values())) for m in masked)
    num_targets = max(map(len, asked))
    device = next(model.parameters()).device
    batch = to_device(collate(masked, model.layout, num_inputs, num_targets), device)
    features = model.decode(batch, model.encode(batch))
    slots = batch[f"goal_slot/{model.layout.streams[target].name}"]
    rows = model.logits(features.reshape(-1, features.shape[-1])[slots], target)
    return list(rows.float().cpu().split([len(a) for a in asked]))


def _draw(
    logits: Tensor, temperature: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One code per row and how likely the model held it: [T, V] -> int64 [T], float [T]."""
    log_p = torch.log_softmax(logits, -1).double().numpy()
    if temperature == 0:
        codes = log_p.argmax(-1)
    else:
        codes = (log_p / temperature + rng.gumbel(size=log_p.shape)).argmax(-1)
    return codes, np.exp(np.take_along_axis(log_p, codes[:, None], 1)[:, 0])
