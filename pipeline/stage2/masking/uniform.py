"""Any tokens of what is present, all alike: large modalities give more than small ones."""

import numpy as np

from pipeline.data.budget import Fit
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.selection import Present, Selection


def uniform_shares(rng: np.random.Generator, capacity: list[int]) -> Fit:
    """How many come from each stream when tokens are drawn one by one, without putting back."""

    def fit(capacity: list[int], total: int) -> list[int]:
        num = min(total, sum(capacity))
        return rng.multivariate_hypergeometric(capacity, num, method="marginals").tolist()

    return fit


class Random:
    """Inputs uniform over all tokens, targets uniform over what is left."""

    def __init__(self, drawing: Drawing):
        self._drawing = drawing

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        return self._drawing(rng, present, uniform_shares, uniform_shares)
