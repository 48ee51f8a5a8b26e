"""Places on the ground are hidden in every map, and their content is asked for.

Which places is what strategies differ in: `block` and `tube`.
"""

from collections.abc import Callable

import numpy as np

from configs.schema import BlockMasking, TubeMasking
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.dirichlet import input_shares, target_shares
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.ground import Ground
from pipeline.stage2.masking.selection import Present, Selection

DrawPlaces = Callable[[np.random.Generator, int], np.ndarray]
"""(random numbers, side of 2 or more) -> hidden places, bool [side, side]: some, never all."""


class Hiding:
    """Map tokens are seen outside the hidden places and asked for inside them."""

    def __init__(
        self,
        config: BlockMasking | TubeMasking,
        layout: Layout,
        drawing: Drawing,
        draw_places: DrawPlaces,
    ):
        self._drawing, self._draw_places, self._ground = drawing, draw_places, Ground(layout)
        self._inputs = input_shares(config, layout)
        self._targets = target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        side, hidden = self._ground.side(present), None
        if side:
            hidden = self._ground.hide(self._draw_places(rng, side), present)
        return self._drawing(rng, present, self._inputs, self._targets, hidden)
