"""The picture sheet of generated samples: one row per sample; sources, then generated beside truth.

With several draws, how far they are apart stands between the two.
"""

import textwrap
from pathlib import Path

import numpy as np

from configs.schema import Modality


def write_sheet(
    path: Path,
    arrays: dict[str, np.ndarray],
    modalities: dict[str, Modality],
    sources: tuple[str, ...],
    targets: tuple[str, ...],
) -> None:
    """Draw what `samples.npz` holds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = [("source", s) for s in sources]
    ways = ("generated", "spread", "truth")
    columns += [(way, t) for t in targets for way in ways if f"{way}/{t}" in arrays]
    num_rows = len(arrays["keys"])
    figure, axes = plt.subplots(
        num_rows, len(columns), figsize=(1.9 * len(columns), 2.0 * num_rows), squeeze=False
    )
    for r in range(num_rows):
        for c, (way, name) in enumerate(columns):
            axis = axes[r, c]
            axis.set_axis_off()
            if r == 0:
                axis.set_title(f"{name}\n{way}", fontsize=8)
            if not arrays[f"present/{way}/{name}"][r]:
                axis.text(0.5, 0.5, "missing", ha="center", va="center", fontsize=8, color="grey")
                continue
            _cell(axis, way, name, arrays, r, modalities[name])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cell(axis, way: str, name: str, arrays: dict[str, np.ndarray], r: int, row: Modality) -> None:
    from shards.render import render_maps

    value = arrays[f"{way}/{name}"][r]
    if not row.is_map:
        text = value if isinstance(value, str) else np.array2string(value, precision=2)
        axis.text(0.02, 0.95, textwrap.fill(str(text), 22), va="top", fontsize=6)
        return
    if way == "spread":
        shown = axis.imshow(value.mean(axis=0), cmap="magma", interpolation="nearest")
        axis.figure.colorbar(shown, ax=axis, fraction=0.046).ax.tick_params(labelsize=5)
        return
    # Truth and generation share one stretch, so that a difference in level can be seen.
    group = [value]
    if way == "generated" and arrays[f"present/truth/{name}"][r]:
        group.append(arrays[f"truth/{name}"][r])
    elif way == "truth":
        group.append(arrays[f"generated/{name}"][r])
    axis.imshow(render_maps(group, row)[0], interpolation="nearest")
