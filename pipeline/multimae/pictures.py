"""What a finished run shows of a few held-out samples: visible, reconstructed and true windows.

`reconstructions.npz` has, of K samples, their `keys` and for each group G with a decoder of its values

    truth/G, made/G   [K, C, H, W] in physical units or stored classes; `made` is the truth where it was seen
    seen/G            bool [K, H, W]
    there/G           bool [K], which samples have the group

and `reconstructions.png` is the same as a picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.schema import Modality
from pipeline.data.loader import Batch
from pipeline.layers.patches import unpatchify
from pipeline.multimae.artifact import Described
from pipeline.multimae.groups import Group, GroupTable
from pipeline.multimae.loss import by_pixel, likeliest
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.patches import Patches
from shards.render import render_maps

_GREY = 128
WAYS = ("visible", "reconstruction", "truth")


def write_pictures(
    model: MultiMAE, about: Described, batch: Batch, keys: Sequence[str], folder: Path
) -> None:
    """Write both files about a batch on the model's device."""
    arrays = reconstruct(model, about, batch)
    arrays["keys"] = np.array(keys)
    np.savez_compressed(folder / "reconstructions.npz", allow_pickle=False, **arrays)
    draw_sheet(folder / "reconstructions.png", arrays, about.table, about.rows)


@torch.no_grad()
def reconstruct(model: MultiMAE, about: Described, batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch, without `keys`."""
    patches = model.cut(batch)
    made = model.predict(batch, model.encode(batch, patches))
    arrays: dict[str, np.ndarray] = {}
    for group in shown_groups(about.table):
        own, rows = patches[group.name], batch[f"rows/{group.name}"].cpu().numpy()
        row, p = about.rows[group.modality], group.patch_px
        height, width = (n * p for n in group.grid)
        truth = _stored(group, own, own.values, about)
        seen = ~batch[f"hidden/{group.name}"]
        seen = unpatchify(seen[..., None].expand(-1, -1, p * p), p, height, width).cpu().numpy()
        valid = unpatchify(own.valid, p, height, width).cpu().numpy()
        nothing = np.nan if row.nodata is None else row.nodata
        found = {
            # What is no measurement is shown as such.
            "truth": np.where(valid, truth, np.asarray(nothing).astype(truth.dtype)),
            "made": np.where(seen, truth, _stored(group, own, made[group.name].float(), about)),
            "seen": seen[:, 0],
        }
        there = np.zeros(len(batch["where"]), bool)
        there[rows] = True
        for key, value in found.items():
            full = np.zeros((len(there), *value.shape[1:]), value.dtype)
            full[rows] = value
            arrays[f"{key}/{group.name}"] = full
        arrays[f"there/{group.name}"] = there
    return arrays


def shown_groups(table: GroupTable) -> list[Group]:
    """The groups whose values some decoder predicts."""
    return [g for g in table.groups if "values" in g.targets]


def row_of(group: Group, row: Modality) -> Modality:
    """The registry's row as if the group were a modality."""
    bands = tuple(row.bands[b] for b in group.bands)
    shown = row.display.bands
    if not shown or not set(shown) <= set(bands):
        # The longest wavelength in red, as people know it.
        shown = tuple(sorted(bands, key=row.bands.index, reverse=True))[:3]
    display = row.display.model_copy(update={"bands": shown})
    return row.model_copy(update={"name": group.name, "bands": bands, "display": display})


def draw_sheet(
    path: Path, arrays: Mapping[str, np.ndarray], table: GroupTable, rows: Mapping[str, Modality]
) -> None:
    """Three rows per sample, visible, reconstruction and truth; a column per group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups, num = shown_groups(table), len(arrays["keys"])
    size = 1.5 * len(groups) + 0.3, 1.5 * len(WAYS) * num + 0.4
    figure, axes = plt.subplots(
        len(WAYS) * num, len(groups), figsize=size, squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for c, group in enumerate(groups):
        axes[0, c].set_title(group.name, fontsize=9)
        row = row_of(group, rows[group.modality])
        for r in range(num):
            here = axes[len(WAYS) * r : len(WAYS) * (r + 1), c]
            if not arrays[f"there/{group.name}"][r]:
                here[0].text(0.5, 0.5, "missing", ha="center", va="center", fontsize=8)
                continue
            for axis, picture in zip(here, _pictures(arrays, group, row, r), strict=True):
                axis.imshow(picture, interpolation="nearest")
    for r, axis in enumerate(axes[:, 0]):
        axis.set_ylabel(WAYS[r % len(WAYS)], fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _pictures(
    arrays: Mapping[str, np.ndarray], group: Group, row: Modality, r: int
) -> Iterator[np.ndarray]:
    """RGB of what was seen, what was made of it, and the truth, on one colour stretch."""
    truth, made, seen = (arrays[f"{what}/{group.name}"][r] for what in ("truth", "made", "seen"))
    true_rgb, made_rgb = render_maps([truth, made], row)
    yield visible_picture(truth, made, seen, row)
    yield made_rgb
    yield true_rgb


def visible_picture(
    truth: np.ndarray, made: np.ndarray, seen: np.ndarray, row: Modality
) -> np.ndarray:
    """RGB [H, W, 3] of what was seen, on the colours that truth and reconstruction share."""
    return np.where(seen[..., None], render_maps([truth, made], row)[0], np.uint8(_GREY))


def _stored(group: Group, own: Patches, values: Tensor, about: Described) -> np.ndarray:
    """Patches as windows [B, C, H, W] in physical units, or logits and numbers as stored classes."""
    p = group.patch_px
    height, width = (n * p for n in group.grid)
    if group.classes:
        if values.is_floating_point():
            values = likeliest(group, by_pixel(group, values))
        maps = unpatchify(values, p, height, width).cpu().numpy()
        return np.array(group.classes, np.uint8)[maps]
    x = unpatchify(values * own.scale + own.centre, p, height, width).cpu().numpy()
    statistics = about.normalisers[group.modality].statistics
    bands = list(group.bands)
    std, mean = (np.array(s)[bands, None, None] for s in (statistics.std, statistics.mean))
    return (x * std + mean).astype(np.float32)
