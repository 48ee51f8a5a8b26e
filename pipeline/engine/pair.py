"""A model and a critic that learns from what it makes, as one engine that commits as one.

    micro-batch -> model: forward, backward -> what it made -> critic: forward, backward -> ... -> both step

The model's loss looks at the critic's weights of before this step, and so does the critic's. A commit
holds the critic's state under names that begin with `critic.`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor, nn

from pipeline.data.loader import Batch
from pipeline.engine.base import Engine, Forward, Piece, Promise, Scalars, StepInfo

PREFIX = "critic."
T = TypeVar("T")


@dataclass(frozen=True)
class _Judged:
    """The first loss; not finite where the second is not."""

    first: Promise
    second: Promise

    def get(self) -> float:
        return self.first.get() + 0.0 * self.second.get()


class PairEngine:
    """Two engines that step together. Whatever asks for one model means the first."""

    def __init__(self, first: Engine, critic: Engine):
        self._first, self._critic = first, critic

    @property
    def model(self) -> nn.Module:
        return self._first.model

    def forward_backward(self, batch: Batch) -> Forward:
        out = self._first.forward_backward(batch)
        judged = self._critic.forward_backward(dict(out.judged))
        told = {name: value for name, value in judged.sums.items() if name != "count"}
        return Forward(
            out.sums | {f"{PREFIX}{name}": value for name, value in told.items()},
            _Judged(out.loss, judged.loss),
            {**out.stats, **_named(judged.stats)},
            {**out.rows, **_named(judged.rows)},
        )

    def step(self, lr_factor: float, *, skip: bool = False, max_norm: float = 0.0) -> StepInfo:
        """Losses that are not finite stop both; so does the critic's gradient. A gradient of the first
        that is dropped for its norm alone comes when the critic has learned from the batch.
        """
        judged = self._critic.step(lr_factor, skip=skip)
        return self._first.step(lr_factor, skip=skip or not judged.applied, max_norm=max_norm)

    def pieces(self, *, owned: bool) -> Iterator[Piece]:
        yield from self._first.pieces(owned=owned)
        for piece in self._critic.pieces(owned=owned):
            kind, name = piece.name.split("/", 1)
            yield replace(piece, name=f"{kind}/{PREFIX}{name}")

    def scalars(self) -> Scalars:
        return {"model": self._first.scalars(), "critic": self._critic.scalars()}

    def allocate(self, kinds: Mapping[str, set[str]], scalars: Scalars) -> None:
        own = {name: found for name, found in kinds.items() if not name.startswith(PREFIX)}
        self._first.allocate(own, scalars.get("model", {}))
        self._critic.allocate(_of_critic(kinds), scalars.get("critic", {}))

    def refresh(self) -> None:
        self._first.refresh()
        self._critic.refresh()

    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        of_critic = _of_critic(stats), _of_critic(rows)
        if any(of_critic):
            self._critic.absorb(*of_critic)
        own = [
            {k: v for k, v in found.items() if not k.startswith(PREFIX)} for found in (stats, rows)
        ]
        if any(own):
            self._first.absorb(*own)

    def averaged(self) -> AbstractContextManager[None]:
        return self._first.averaged()

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[None]:
        with self._first.whole_model(), self._critic.whole_model():
            yield

    def describe(self) -> str:
        millions = sum(p.numel() for p in self._critic.model.parameters()) / 1e6
        return f"{self._first.describe()}, and a critic of {millions:.2f} M parameters"


def _named(values: Mapping[str, T]) -> dict[str, T]:
    return {f"{PREFIX}{name}": value for name, value in values.items()}


def _of_critic(values: Mapping[str, T]) -> dict[str, T]:
    return {k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)}
