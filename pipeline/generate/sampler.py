"""Drawing the tokens of a modality from a trained stage-2 model.

Maps, places and dates are filled in rounds, each of which becomes input of the next; sequences are
written token by token. What is drawn depends on (seed, sample, draw), never on the batch.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.data.tokens import EOS
from pipeline.generate.picking import Sampling, known_after, pick
from pipeline.generate.proposals import Proposer
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content

Tokens = list[np.ndarray]


def stream_rng(how: Sampling, sample: int, draw: int, target: int) -> np.random.Generator:
    """The random numbers of one draw of one stream of one sample."""
    return np.random.Generator(
        np.random.Philox(key=[how.seed, (sample << 24) + (draw << 8) + target])
    )


@torch.no_grad()
def generate_tokens(
    model: MaskedTransformer, contents: list[Content], ids: list[int], target: int, how: Sampling
) -> list[Tokens]:
    """Tokens of the target stream for each sample, given everything in its content.

    Args:
        model: a trained model, in eval mode.
        contents: the input streams of each sample; the target stream must not be among them.
        ids: a number that names each sample, for its random draws.
        target: index of the stream to generate.
        how: rounds, temperature, guidance, seed, number of draws. Sequences are drawn once.

    Returns:
        For each draw the codes per sample, int64 [num_positions], or up to and with `[EOS]` for
        sequences.
    """
    if model.layout.streams[target].kind == "sequence":
        return [draw_tokens(model, contents, ids, target, how, 0)]
    # Nothing is known before the first round, so all draws share its proposal.
    is_shared = how.schedule == "maskgit"
    first = _first_proposal(model, contents, target, how) if is_shared else None
    return [
        draw_tokens(model, contents, ids, target, how, number, first)
        for number in range(how.num_draws)
    ]


@torch.no_grad()
def draw_tokens(
    model: MaskedTransformer,
    contents: list[Content],
    ids: list[int],
    target: int,
    how: Sampling,
    number: int,
    first: list[Tensor] | None = None,
) -> Tokens:
    """Draw number `number` of `generate_tokens`; `first` saves the first round's proposal."""
    rngs = [stream_rng(how, i, number, target) for i in ids]
    stream, proposer = model.layout.streams[target], Proposer(model, contents, target, how)
    if stream.kind == "sequence":
        return _write(proposer, stream.num_positions, how, rngs)
    if how.schedule == "roar":
        return _fill_in_random_order(proposer, stream.num_positions, how, rngs)
    return _fill_by_certainty(proposer, stream.num_positions, how, rngs, first)


@torch.no_grad()
def expected_tokens(
    model: MaskedTransformer, contents: list[Content], target: int, how: Sampling
) -> list[Tensor]:
    """How likely each code is at each place, given the content alone: per sample [N, V] on the CPU.

    Not for sequences, whose tokens depend on those before them.
    """
    return [rows.softmax(-1) for rows in _first_proposal(model, contents, target, how)]


def _first_proposal(
    model: MaskedTransformer, contents: list[Content], target: int, how: Sampling
) -> list[Tensor]:
    total = model.layout.streams[target].num_positions
    nothing = [np.zeros(total, dtype=np.int64) for _ in contents]
    everywhere = [np.arange(total)] * len(contents)
    nowhere = [np.arange(0)] * len(contents)
    return Proposer(model, contents, target, how).of_places(nothing, everywhere, nowhere)


def _fill_by_certainty(
    proposer: Proposer,
    total: int,
    how: Sampling,
    rngs: list[np.random.Generator],
    first: list[Tensor] | None,
) -> Tokens:
    """Each round proposes all open tokens and keeps the most certain."""
    codes = [np.zeros(total, dtype=np.int64) for _ in rngs]
    known = [np.zeros(total, dtype=bool) for _ in rngs]
    for step, goal in enumerate(known_after(total, how.steps, how.shape)):
        open_ = [np.flatnonzero(~k) for k in known]
        logits = (
            first
            if step == 0 and first is not None
            else proposer.of_places(codes, open_, [np.flatnonzero(k) for k in known])
        )
        for i, (rows, rng) in enumerate(zip(logits, rngs, strict=True)):
            drawn, certainty = pick(rows, how, rng)
            best = np.argsort(-certainty, kind="stable")[: goal - int(known[i].sum())]
            codes[i][open_[i][best]] = drawn[best]
            known[i][open_[i][best]] = True
    return codes


def _fill_in_random_order(
    proposer: Proposer, total: int, how: Sampling, rngs: list[np.random.Generator]
) -> Tokens:
    """Each round asks for the next places of an order of the sample's own, and keeps what it draws."""
    codes = [np.zeros(total, dtype=np.int64) for _ in rngs]
    orders = [rng.permutation(total) for rng in rngs]
    done = 0
    for goal in known_after(total, how.steps, how.shape):
        asked = [np.sort(order[done:goal]) for order in orders]
        known = [np.sort(order[:done]) for order in orders]
        logits = proposer.of_places(codes, asked, known)
        for i, (rows, rng) in enumerate(zip(logits, rngs, strict=True)):
            codes[i][asked[i]] = pick(rows, how, rng)[0]
        done = goal
    return codes


def _write(
    proposer: Proposer, limit: int, how: Sampling, rngs: list[np.random.Generator]
) -> Tokens:
    """Token by token, until the end of the text or of the room for it."""
    written = [np.zeros(0, dtype=np.int64) for _ in rngs]
    going = list(range(len(rngs)))
    while going:
        rows = proposer.of_next([written[i] for i in going])
        for i, logits in zip(going, rows, strict=True):
            written[i] = np.append(written[i], pick(logits[None], how, rngs[i])[0])
        left = [n for n, i in enumerate(going) if _goes_on(written[i], limit)]
        if len(left) < len(going):
            proposer.keep(left)
        going = [going[n] for n in left]
    return written


def _goes_on(codes: np.ndarray, limit: int) -> bool:
    return codes[-1] != EOS and len(codes) < limit
