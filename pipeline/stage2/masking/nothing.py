"""Nothing is seen, everything may be asked for: what a model makes of no source at all."""

import numpy as np

from configs.schema import NothingMasking
from pipeline.data.budget import proportional
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.dirichlet import target_shares
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.selection import Present, Selection


class Nothing:
    """No inputs but the sentinels of texts that are written."""

    def __init__(self, config: NothingMasking, layout: Layout, drawing: Drawing):
        self._drawing, self._targets = drawing, target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        unseen = Present(present.available, [0] * len(present.available))
        return self._drawing(rng, unseen, proportional, self._targets)
