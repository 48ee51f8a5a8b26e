"""Torch's random generators of a rank: part of a commit, and made anew for another number of ranks."""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.engine.base import Piece
from pipeline.engine.distributed import World
from pipeline.engine.statefile import StateReader


def pieces(world: World) -> Iterator[Piece]:
    """The states of this rank's generators."""
    for kind, state in _states():
        yield Piece(_name(world.rank, kind), tuple(state.shape), 0, state)


def restore(reader: StateReader, world: World, seed: int, step: int, saved_ranks: int) -> None:
    """Back to where the commit left them; with another number of ranks, to fresh ones for its step.

    A resharded commit has none.
    """
    if saved_ranks != world.size or _name(world.rank, "cpu") not in reader.shapes:
        start(world, seed, step)
        return
    torch.set_rng_state(reader.whole(_name(world.rank, "cpu")))
    if torch.cuda.is_available() and _name(world.rank, "cuda") in reader.shapes:
        torch.cuda.set_rng_state(reader.whole(_name(world.rank, "cuda")))


def start(world: World, seed: int, step: int = 0) -> None:
    """Generators that are unrelated between ranks, steps and seeds."""
    drawn = np.random.SeedSequence([seed, step, world.rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(drawn >> np.uint64(1)))


def _states() -> Iterator[tuple[str, torch.Tensor]]:
    yield "cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "cuda", torch.cuda.get_rng_state()


def _name(rank: int, kind: str) -> str:
    return f"rng/{rank:04d}.{kind}"
