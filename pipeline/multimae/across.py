"""Each group from the others: held-out scores where nothing of a group is seen."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.data.loader import Batch
from pipeline.data.pixels import Pixels
from pipeline.engine.distributed import to_device
from pipeline.engine.objective import Sums
from pipeline.multimae.groups import GroupTable
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.samples import Masked, Masking, usable_patches

_BATCH = 16


@torch.no_grad()
def sums_from_others(
    model: MultiMAE,
    masking: Masking,
    windows: Sequence[tuple[int, Pixels]],
    collate: Callable[[list[Masked]], Batch],
) -> dict[str, Sums]:
    """Of each group the sums of `model(batch, evaluate=True)` with its patches taken from the draw.

    `windows` are numbered samples; masks follow from the numbers alone. As many patches are seen as
    always, all of other groups. Samples that lack the group, or have nothing else, are left out.
    """
    device = next(model.parameters()).device
    table, found = model.table, {}
    for number, group in enumerate(table.groups):
        if "values" not in group.targets:
            continue
        samples = [
            Masked(pixels, visible)
            for index, pixels in windows
            if group.modality in pixels.values
            and len(visible := _without(number, table, pixels, masking, index))
        ]
        total: Sums = {}
        for start in range(0, len(samples), _BATCH):
            batch = to_device(collate(samples[start : start + _BATCH]), device)
            for name, value in model(batch, evaluate=True).sums.items():
                total[name] = total[name] + value if name in total else value
        found[group.name] = total
    return found


def _without(
    number: int, table: GroupTable, pixels: Pixels, masking: Masking, index: int
) -> np.ndarray:
    usable = usable_patches(table, pixels.valid)
    usable[number] = usable[number][:0]
    return masking(np.random.default_rng(index), usable)
