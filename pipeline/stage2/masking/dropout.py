"""Whole modalities are not seen, so that a model learns to do without any of them."""

import numpy as np

from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.selection import Present, Selection, Strategy


class ModalityDropout:
    """Around a strategy: each present input modality is dropped with probability `p`, never the last.

    A dropped modality is dropped in all its forms and dates, pixels and tokens; it may still be asked for.
    """

    def __init__(self, inner: Strategy, layout: Layout, p: float):
        self._inner, self._p = inner, p
        names = [s.modality for s in layout.streams]
        self._number = [names.index(name) for name in names]

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        chance = rng.random(len(self._number)).tolist()
        candidates = [m for m, n in zip(self._number, present.readable, strict=True) if n]
        if candidates:
            # The luckiest stays in any case.
            last = max(candidates, key=chance.__getitem__)
            kept = {m for m in candidates if chance[m] >= self._p or m == last}
            pairs = zip(self._number, present.readable, strict=True)
            present = Present(present.available, [n if m in kept else 0 for m, n in pairs])
        return self._inner(rng, present)
