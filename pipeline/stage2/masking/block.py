"""A rectangle on the ground is hidden in every map, and its content is asked for.

As in I-JEPA (Assran et al. 2023, section 3), with the target where nothing was seen.
"""

import math

import numpy as np


def draw_blocks(
    rng: np.random.Generator, side: int, share: float, num_blocks: int = 1
) -> np.ndarray:
    """Hidden places, bool [side, side]: some, never all. Needs a side of 2 or more.

    Rectangles of `share / num_blocks` of the window each, as nearly as whole places allow, anywhere in
    it, with sides in ratios from 1:2 to 2:1; they may overlap.
    """
    hidden = np.zeros((side, side), dtype=bool)
    area = share / num_blocks * side**2
    for ratio, y, x in rng.random((num_blocks, 3)).tolist():
        rows = min(max(round(math.sqrt(area * 4 ** (ratio - 0.5))), 1), side)
        columns = min(max(round(area / rows), 1), side - (rows == side))
        top, left = int(y * (side - rows + 1)), int(x * (side - columns + 1))
        hidden[top : top + rows, left : left + columns] = True
        # One rectangle never covers all; several may.
        if num_blocks > 1 and hidden.all():
            hidden[:] = False
            hidden[top : top + rows, left : left + columns] = True
    return hidden
