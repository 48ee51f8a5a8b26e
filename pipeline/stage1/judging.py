"""How good a reconstruction is, in physical units, from sums that add up over batches and ranks."""

import torch
from torch import Tensor

from configs.registry import BandStatistics
from configs.schema import Modality
from pipeline.engine.objective import Sums
from pipeline.layers.float32 import Float32Buffers
from pipeline.layers.image_scores import image_scores, image_sums
from pipeline.layers.scores import class_scores, code_usage, confusion_matrix
from pipeline.stage1.classes import to_classes
from pipeline.stage1.losses.reconstruction import has_spectrum
from pipeline.stage1.quantizers.base import uses

# Where the registry gives no range to show a modality in, PSNR and SSIM are relative to this many
# standard deviations of a band.
RANGE_IN_STD = 4.0


class Judge(Float32Buffers):
    """Scores of one modality's windows.

    `forward(made, x, valid)`: normalised bands [B, C, H, W], or a channel per class and the classes.
    """

    mean: Tensor
    std: Tensor
    ranges: Tensor

    def __init__(self, modality: Modality, statistics: BandStatistics | None, num_codes: int):
        super().__init__()
        self.modality, self.num_codes = modality, num_codes
        self.has_statistics = statistics is not None and modality.kind == "image"
        if statistics is not None and modality.kind == "image":
            std = torch.tensor(statistics.std)
            self.register_buffer("mean", torch.tensor(statistics.mean), persistent=False)
            self.register_buffer("std", std, persistent=False)
            self.register_buffer("ranges", value_ranges(modality, std), persistent=False)

    def count(self, codes: Tensor) -> Tensor:
        """How often each code occurs, [V] float64."""
        return uses(codes, self.num_codes).double()

    @torch.no_grad()
    def forward(self, made: Tensor, x: Tensor, valid: Tensor) -> Sums:
        if self.modality.kind == "classes":
            k = self.modality.num_classes
            return {"confusion": confusion_matrix(to_classes(made, k), x, valid, k).double()}
        if not self.has_statistics:
            return {}
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        found = image_sums(
            made.float() * std + mean,
            x.float() * std + mean,
            valid,
            self.ranges,
            spectral=has_spectrum(self.modality),
        )
        return {f"image/{name}": value for name, value in found.items()}

    def scores(self, sums: Sums) -> dict[str, float]:
        """What the sums say: of codes, of classes, of images."""
        values = code_usage(sums["codes"]) if "codes" in sums else {}
        if "confusion" in sums:
            nodata = self.modality.nodata
            ignore = None if nodata is None else int(nodata)
            names = {c.value: c.name for c in self.modality.classes}
            values |= class_scores(sums["confusion"], names, ignore)
        image = {k.removeprefix("image/"): v for k, v in sums.items() if k.startswith("image/")}
        return values | (image_scores(image, self.modality.bands) if image else {})


def value_ranges(modality: Modality, std: Tensor) -> Tensor:
    """The span of values that errors of each band are relative to in PSNR and SSIM, [C]."""
    shown = modality.display.range if modality.display else None
    if shown is None:
        return RANGE_IN_STD * std
    return torch.full_like(std, float(shown[1] - shown[0]))
