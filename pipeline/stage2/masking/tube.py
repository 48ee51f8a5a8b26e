"""The same scattered places are hidden in every map, and their content is asked for.

Nothing can be copied from another modality at the same place: tube masking of video (Tong et al. 2022,
VideoMAE, section 3.3), with modalities for frames.
"""

import numpy as np


def draw_places(rng: np.random.Generator, side: int, share: float) -> np.ndarray:
    """Hidden places, bool [side, side]: some, never all. Needs a side of 2 or more."""
    total = side**2
    hidden = np.zeros(total, dtype=bool)
    hidden[rng.permutation(total)[: min(max(round(share * total), 1), total - 1)]] = True
    return hidden.reshape(side, side)
