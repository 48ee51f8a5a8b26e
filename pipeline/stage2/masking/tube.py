"""The same scattered places are hidden in every map, and their content is asked for.

Nothing can be copied from another modality at the same place: tube masking of video (Tong et al. 2022,
VideoMAE, section 3.3), with modalities for frames.
"""

import numpy as np

from configs.schema import TubeMasking
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.dirichlet import DirichletShares
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.ground import Ground
from pipeline.stage2.masking.selection import Present, Selection


class Tube:
    """Map tokens are seen at some places and asked for at the others."""

    def __init__(self, config: TubeMasking, layout: Layout, drawing: Drawing):
        self._share, self._drawing, self._ground = config.share, drawing, Ground(layout)
        self._inputs = DirichletShares(
            config.alpha_input, config.alpha_input_by, layout, layout.inputs
        )
        self._targets = DirichletShares(
            config.alpha_target, config.alpha_target_by, layout, layout.targets
        )

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        side, hidden = self._ground.side(present), None
        if side:
            hidden = self._ground.hide(draw_places(rng, side, self._share), present)
        return self._drawing(rng, present, self._inputs, self._targets, hidden)


def draw_places(rng: np.random.Generator, side: int, share: float) -> np.ndarray:
    """Hidden places, bool [side, side]: some, never all. Needs a side of 2 or more."""
    total = side**2
    hidden = np.zeros(total, dtype=bool)
    hidden[rng.permutation(total)[: min(max(round(share * total), 1), total - 1)]] = True
    return hidden.reshape(side, side)
