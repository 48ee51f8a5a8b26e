"""One modality alone is seen, everything else may be asked for: "rgb to all" of 4M."""

import numpy as np

from configs.schema import SingleMasking
from pipeline.data.budget import proportional
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.dirichlet import target_shares
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.selection import Present, Selection


class Single:
    """One stream, drawn from those that are present; pixels first, or any."""

    def __init__(self, config: SingleMasking, layout: Layout, drawing: Drawing):
        self._drawing = drawing
        self._first = layout.pixels if config.of == "pixels" else layout.inputs
        self._all = layout.inputs
        self._targets = target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        readable = present.readable
        choices = [i for i in self._first if readable[i]] or [i for i in self._all if readable[i]]
        alone = [0] * len(readable)
        if choices:
            chosen = choices[int(rng.random() * len(choices))]
            alone[chosen] = readable[chosen]
        return self._drawing(rng, Present(present.available, alone), proportional, self._targets)
