"""The picture of a scene: sources, results and truths side by side, made smaller."""

from pathlib import Path

import numpy as np

from configs.schema import GenerateConfig, Modality
from pipeline.generate.rasters import Raster, opened

MAX_SIDE = 512


def write_scene_sheet(
    config: GenerateConfig, rows: dict[str, Modality], made: dict[str, Path]
) -> None:
    """OUT/sheet.png. Truth and result share one stretch, so that a difference in level can be seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from shards.render import render_map, render_maps

    shown: list[tuple[str, np.ndarray]] = []
    for name, value in config.inputs.items():
        if rows[name].is_map:
            shown.append(
                (f"{name}\nsource", render_map(_small(Path(value), rows[name]), rows[name]))
            )
    for name, path in made.items():
        group = [_small(path, rows[name])]
        if name in config.truth:
            group.append(_small(Path(config.truth[name]), rows[name]))
        labels = (f"{name}\ngenerated", f"{name}\ntruth")
        shown += zip(labels, render_maps(group, rows[name]), strict=False)
    for name in made:
        for path in config.out.glob(f"{name}_spread.*"):
            apart = _small(path, rows[name]).mean(0)
            shown.append((f"{name}\nspread (mean {np.nanmean(apart):.3g})", apart))
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.3), squeeze=False)
    for axis, (title, picture) in zip(axes[0], shown, strict=True):
        axis.set_axis_off()
        axis.set_title(title, fontsize=8)
        axis.imshow(picture, interpolation="nearest", cmap="magma")
    figure.tight_layout(pad=0.4)
    figure.savefig(config.out / "sheet.png", dpi=110)
    plt.close(figure)


def _small(path: Path, row: Modality) -> np.ndarray:
    """Every n-th row and column, read in strips; NaN becomes nodata."""
    with opened(path, row) as raster:
        height, width = _size(raster, row)
        step = max(1, -(-max(height, width) // MAX_SIDE))
        strips = [raster.read(top, 0, 1, width)[..., ::step] for top in range(0, height, step)]
    picture = np.concatenate(strips, axis=1)
    if picture.dtype.kind == "f" and row.nodata is not None:
        picture = np.where(np.isnan(picture), row.nodata, picture)
    return picture


def _size(raster: Raster, row: Modality) -> tuple[int, int]:
    return row.pixels(raster.grid.height * 10), row.pixels(raster.grid.width * 10)
