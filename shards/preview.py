"""A contact sheet: one row per sample, one column per modality, so that a person can look.

Maps are drawn by `shards.render`; texts are wrapped into their cell; a missing part is a hatched
cell that says so. Class colours are explained below the sheet.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.modality import Modality
from shards.dataset import Dataset
from shards.files import disk_errors
from shards.render import class_colors, render_map
from shards.sample import Part

_CELL_IN = 1.75
_LEGEND_COLUMN_IN = 1.35
_TEXT_CHARS = 27
_TEXT_LINES = 11


def spread(indices: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the given samples, evenly spread over them: int64."""
    if len(indices) <= num:
        return indices
    return indices[np.linspace(0, len(indices) - 1, num).round().astype(np.int64)]


def contact_sheet(dataset: Dataset, samples: Sequence[int] | np.ndarray, out: Path) -> None:
    """Write the sheet of these samples as PNG to `out`.

    Raises ShardError when `out` cannot be written, DamagedError when a sample cannot be read.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = dataset.modalities
    # A dictionary, because maps of two dates have the classes of the map of one.
    meanings = {
        (f"{c.value} {c.name}", tuple(class_colors(row)[c.value] / 255)): None
        for row in rows.values()
        for c in row.classes
    }
    width_in = _CELL_IN * len(rows) + 0.3
    legend_columns = min(10, max(1, int(width_in / _LEGEND_COLUMN_IN)))
    below_in = 0.25 + 0.15 * max(1, math.ceil(len(meanings) / legend_columns))
    height_in = _CELL_IN * len(samples) + 0.9 + below_in
    figure = Figure(figsize=(width_in, height_in), dpi=110, facecolor="white")
    axes = figure.subplots(len(samples), len(rows), squeeze=False)
    for r, i in enumerate(samples):
        parts = dataset.read(int(i), rows)
        for ax, (name, row) in zip(axes[r], rows.items(), strict=True):
            _draw_cell(ax, parts.get(name), row)
            if r == 0:
                measured = row.kind == "image" and row.unit not in ("", "1")
                unit = f"\n[{row.unit}]" if measured else "\n"
                ax.set_title(f"{name}{unit}", fontsize=8, pad=4)
        split, shard, slot = dataset.location(int(i))
        label = f"{_shorten(dataset.keys[int(i)], 24)}\n{split}/{shard[-6:]}/{slot}"
        axes[r][0].set_ylabel(label, fontsize=6.5, labelpad=3)
    handles = [Patch(facecolor=color, label=label) for label, color in meanings]
    if handles:
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=min(len(handles), legend_columns),
            fontsize=7,
            frameon=False,
        )
    figure.suptitle(
        f"{dataset.path}: {len(samples)} of {dataset.num_samples} samples", fontsize=9, y=0.995
    )
    figure.subplots_adjust(
        left=0.45 / figure.get_figwidth(),
        right=1 - 0.05 / figure.get_figwidth(),
        top=1 - 0.75 / height_in,
        bottom=below_in / height_in,
        wspace=0.05,
        hspace=0.05,
    )
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format="png", metadata={"Software": None})


def _draw_cell(ax: Any, part: Part | None, row: Modality) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#bbbbbb")
    if isinstance(part, np.ndarray) and row.is_map:
        # Several class maps come side by side, and would be hard to read squeezed into a square.
        aspect = "equal" if row.kind == "classes" and row.num_bands > 1 else "auto"
        ax.imshow(render_map(part, row), interpolation="nearest", aspect=aspect)
        return
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    if part is None:
        ax.set_facecolor("#f4f4f4")
        ax.patch.set_hatch("////")
        ax.patch.set_edgecolor("#d0d0d0")
        box = {"facecolor": "#f4f4f4", "edgecolor": "none", "pad": 1.5}
        ax.text(
            0.5, 0.5, "missing", ha="center", va="center", fontsize=8, color="#777777", bbox=box
        )
        return
    ax.text(0.05, 0.94, as_text(part, row), ha="left", va="top", fontsize=6.8, linespacing=1.25)


def as_text(part: Part, row: Modality) -> str:
    """What is not a picture, in a few short lines: a place, the classes of a label, values, words."""
    if isinstance(part, np.ndarray):
        if row.kind == "coordinates":
            lon, lat = part
            east, north = "E" if lon >= 0 else "W", "N" if lat >= 0 else "S"
            return f"{abs(lon):.4f}° {east}\n{abs(lat):.4f}° {north}"
        pairs = list(zip(row.bands, part.tolist(), strict=False))
        if part.dtype == np.uint8:
            # One-hot and multi-hot vectors say which of their classes hold.
            part = ", ".join(name for name, value in pairs if value) or "none"
        else:
            part = " ".join(f"{name}={value:.4g}" for name, value in pairs)
    lines = textwrap.wrap(part, _TEXT_CHARS) or ["(empty)"]
    if len(lines) > _TEXT_LINES:
        lines = [*lines[: _TEXT_LINES - 1], lines[_TEXT_LINES - 1][: _TEXT_CHARS - 2] + " …"]
    return "\n".join(lines)


def _shorten(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else f"{text[: num_chars - 1]}…"
