"""Fixed views of a sample: what tokens were made of, and what pixels beside them have to show."""

from dataclasses import asdict, dataclass

import numpy as np

from configs.schema import Modality
from pipeline.data.transforms import cut, window_offsets


@dataclass(frozen=True)
class Views:
    """Windows in a square grid of `per_side`, row by row, each in the same `symmetries`.

    Symmetries are 1, 2, 4 or 8: as it is; mirrored left to right; both also upside down; all of
    these also with rows and columns exchanged. Those of one window follow each other.
    """

    per_side: int = 1
    symmetries: int = 1

    def __len__(self) -> int:
        return self.per_side**2 * self.symmetries

    @property
    def centre(self) -> int:
        """The view of the window in the middle, as it is."""
        return self.per_side**2 // 2 * self.symmetries

    def show(self, x: np.ndarray, row: Modality, window_m: float, number: int) -> np.ndarray:
        """View `number` of a map [C, H, W] -> [C, h, w]. Raises ValueError for a map too small."""
        gsd = row.gsd_m
        assert gsd is not None
        window, symmetry = divmod(number, self.symmetries)
        down, right = divmod(window, self.per_side)
        top = window_offsets(x.shape[1] * gsd, window_m, self.per_side)[down]
        left = window_offsets(x.shape[2] * gsd, window_m, self.per_side)[right]
        return symmetric(cut(x, row, top, left, window_m), symmetry)

    def all(self, x: np.ndarray, row: Modality, window_m: float) -> np.ndarray:
        """[K, C, h, w], all of them in order."""
        return np.stack([self.show(x, row, window_m, k) for k in range(len(self))])

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def symmetric(x: np.ndarray, number: int) -> np.ndarray:
    """One of the 8 symmetries of the square, of the last two axes: mirrored, upside down, transposed.

    The bits of `number` say which, in this order.
    """
    if number & 1:
        x = x[..., ::-1]
    if number & 2:
        x = x[..., ::-1, :]
    if number & 4:
        x = x.swapaxes(-1, -2)
    return np.ascontiguousarray(x)
