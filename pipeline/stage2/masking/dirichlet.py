"""Shares of the modalities by Dirichlet draws (4M, Mizrahi et al. 2023, section 3.2).

Small alpha gives nearly everything to one stream, large alpha spreads it. A stream that is absent has
no tokens to give, so its share goes to the others.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from configs.schema import DirichletMasking
from pipeline.data.budget import Fit, dirichlet_weights, fit_budget
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.selection import Present, Selection


class DirichletShares:
    """One of several alphas, drawn per sample, for all streams but those that `by` names.

    Names are modalities, dates of them or streams (`S2L2A`, `S2L2A_t1`, `S2L2A@px`); the narrower wins.
    """

    def __init__(
        self,
        alphas: Sequence[float],
        by: Mapping[str, float],
        layout: Layout,
        streams: Sequence[int],
    ):
        self._alphas, self._own = alphas, {}
        for i in streams:
            stream = layout.streams[i]
            for name in (stream.modality, stream.part, stream.name):
                if name in by:
                    self._own[i] = by[name]

    def __call__(self, rng: np.random.Generator, capacity: list[int]) -> Fit:
        alpha = self._alphas[0]
        if len(self._alphas) > 1:
            alpha = self._alphas[int(rng.random() * len(self._alphas))]
        weights = dirichlet_weights(rng, capacity, alpha, self._own)
        return partial(fit_budget, weights)


class InputAlphas(Protocol):
    """A configuration that says how inputs are shared out."""

    @property
    def alpha_input(self) -> Sequence[float]: ...

    @property
    def alpha_input_by(self) -> Mapping[str, float]: ...


class TargetAlphas(Protocol):
    """A configuration that says how targets are shared out."""

    @property
    def alpha_target(self) -> Sequence[float]: ...

    @property
    def alpha_target_by(self) -> Mapping[str, float]: ...


def input_shares(config: InputAlphas, layout: Layout) -> DirichletShares:
    """Over the streams that may be inputs."""
    return DirichletShares(config.alpha_input, config.alpha_input_by, layout, layout.inputs)


def target_shares(config: TargetAlphas, layout: Layout) -> DirichletShares:
    """Over the streams that may be targets."""
    return DirichletShares(config.alpha_target, config.alpha_target_by, layout, layout.targets)


class Dirichlet:
    """Any tokens, in the shares of two Dirichlet draws, one for inputs and one for targets."""

    def __init__(self, config: DirichletMasking, layout: Layout, drawing: Drawing):
        self._drawing = drawing
        self._inputs = input_shares(config, layout)
        self._targets = target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        return self._drawing(rng, present, self._inputs, self._targets)
