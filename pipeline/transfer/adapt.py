"""Images of a data set as a backbone wants them: bands, statistics, size.

    S2L1C of 13 bands -> (modality_map) -> S2L2A of 12: B10 is left out, a band that is missing is the mean

A band that the data lacks is filled with the mean the backbone was trained with, which is zero once it is
standardised; `known` tells it apart. A modality that is missing is never filled: it has a presence bit.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import Modality
from pipeline.transfer.backbone import Intake
from pipeline.transfer.bands import band_place, map_bands


class Adapter:
    """One modality of the data as one of a backbone.

    With `statistics` of the data each band is shifted and scaled to have the backbone's. `name` is the
    backbone's for the modality, `band_map` {band of the backbone: of the data} wins over names.
    """

    def __init__(
        self,
        row: Modality,
        intake: Intake,
        statistics: BandStatistics | None,
        name: str = "",
        band_map: Mapping[str, str] | None = None,
    ):
        assert row.gsd_m is not None
        self.row, self.intake, self.statistics = row, intake, statistics
        self.band_map = dict(band_map or {})
        try:
            self.bands = map_bands(row.bands, intake.bands, self.band_map, (row.name, name))
        except ConfigError as error:
            raise ConfigError(f"{row.name}: {error}") from error
        self._mean = torch.tensor(intake.mean).view(-1, 1, 1)
        self._scale: Tensor | None = None
        if statistics is not None:
            found = [i for i in self.bands.source if i >= 0]
            self._shift = torch.tensor([statistics.mean[i] for i in found]).view(-1, 1, 1)
            std = torch.tensor([statistics.std[i] for i in found]).clamp(min=1e-6).view(-1, 1, 1)
            self._scale = torch.tensor(intake.std).view(-1, 1, 1)[torch.tensor(self.known)] / std

    def note(self) -> str:
        """What does not fit, for a person; empty where all bands do."""
        parts = []
        if self.bands.missing:
            parts.append(f"{', '.join(self.bands.missing)} missing")
        if self.bands.extra:
            parts.append(f"{', '.join(self.bands.extra)} left out")
        if self.bands.denied:
            parts.append(f"{', '.join(self.bands.denied)}: write band_map where it is another band")
        return "; ".join(parts)

    def size(self, window_m: tuple[float, float]) -> tuple[int, int]:
        """Rows and columns of pixels of the backbone over a ground."""
        height, width = (round(m / self.intake.gsd_m) for m in window_m)
        return height, width

    def __call__(self, part: np.ndarray, window_m: tuple[float, float]) -> Tensor:
        """[C, H, W] of the data -> float32 [C', h, w] of the backbone; NaN where nothing was measured."""
        x = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
        valid = torch.isfinite(x)
        nodata = self.row.nodata
        if nodata is not None and np.isfinite(nodata):
            valid &= x != nodata
        known = torch.tensor(self.known)
        source = torch.tensor([i for i in self.bands.source if i >= 0])
        x, measured = x[source], valid[source].all(0)
        if self._scale is not None:
            x = (x - self._shift) * self._scale + self._mean[known]
        y = self._mean.expand(-1, *x.shape[1:]).clone()
        y[known] = torch.where(measured, x, self._mean[known])
        size = self.size(window_m)
        if y.shape[1:] != size:
            # Pixels without a measurement are the mean while neighbours are averaged, and marked after.
            smaller = size[0] < y.shape[1] or size[1] < y.shape[2]
            y = F.interpolate(
                y[None], size, mode="bilinear", align_corners=False, antialias=smaller
            )[0]
            measured = F.interpolate(measured[None, None].float(), size, mode="nearest-exact")[0, 0]
        return y.masked_fill(~measured.bool(), torch.nan)

    def hide(self, images: Tensor, bands: Sequence[str]) -> tuple[bool, ...]:
        """Put bands of images [B, C', h, w] at their mean, in place; of each band, whether it is still known.

        Raises ConfigError for a band that the backbone has not.
        """
        known = list(self.known)
        for band in bands:
            at = band_place(self.intake.bands, band)
            images[:, at], known[at] = self.intake.mean[at], False
        return tuple(known)

    @property
    def known(self) -> tuple[bool, ...]:
        """Of each band of the backbone, whether the data has it."""
        return tuple(i >= 0 for i in self.bands.source)


def band_statistics(row: Modality, parts: "list[np.ndarray]") -> BandStatistics:
    """Mean and deviation per band over what was measured. Raises ConfigError where nothing was."""
    count = np.zeros(row.num_bands)
    first, second = np.zeros(row.num_bands), np.zeros(row.num_bands)
    for part in parts:
        x = part.astype(np.float64)
        valid = np.isfinite(x)
        if row.nodata is not None and np.isfinite(row.nodata):
            valid &= x != row.nodata
        x = np.where(valid, x, 0.0)
        count += valid.sum((1, 2))
        first += x.sum((1, 2))
        second += (x**2).sum((1, 2))
    if not count.all():
        raise ConfigError(f"{row.name}: no training sample has a measurement in every band")
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0.0))
    return BandStatistics(tuple(mean.tolist()), tuple(std.tolist()))


def intake_of(row: Modality, statistics: BandStatistics) -> Intake:
    """A modality as a backbone without modalities of its own takes it: as it is."""
    assert row.gsd_m is not None
    assert row.patch_px is not None
    return Intake(row.bands, *statistics, row.gsd_m, row.patch_px)


def mapped(rows: Mapping[str, Modality], modality_map: Mapping[str, str]) -> dict[str, str]:
    """{modality of the data: that of the backbone}. Raises ConfigError where two become one."""
    if stray := set(modality_map) - set(rows):
        raise ConfigError(
            f"modality_map names {', '.join(sorted(stray))}; the data has {', '.join(rows)}"
        )
    found = {name: modality_map.get(name, name) for name in rows}
    for name in found.values():
        twice = [own for own, theirs in found.items() if theirs == name]
        if len(twice) > 1 and any(own in modality_map for own in twice):
            raise ConfigError(
                f"modality_map makes {' and '.join(twice)} both {name}; name in `inputs` the one to take"
            )
    return found
