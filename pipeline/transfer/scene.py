"""`python -m pipeline predict`: a trained model over GeoTIFFs of any size, window by window.

    OUT.tif     classes uint8, or values float32; CRS and transform are those of the inputs. Where nothing
                was measured: the label's nodata, of a label without one a value that is no class, or NaN.

A window covers the ground of a training sample and is shown to the backbone at the scale of training. Windows
overlap and blend, so that no seam shows; a window's result does not depend on which others are
computed with it. Memory holds one row of windows, whatever the size of the scene. A file appears under its
name when it is whole.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from configs import ConfigError
from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from pipeline.engine.errors import RunError
from pipeline.generate.rasters import Raster, check_same_ground, created
from pipeline.generate.tiling import Blend, Tiling
from pipeline.transfer.masked import measured_raster
from pipeline.transfer.saved import SavedModel
from shards.sources.grid import GRID_M


class Window(NamedTuple):
    """Images of one window as the backbone takes them, and where it lies in metres."""

    left: float
    images: dict[str, Tensor]
    measured: np.ndarray


def predict_scene(
    model: SavedModel,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    overlap: float = 0.25,
    batch: int = 16,
    window_m: float | None = None,
) -> None:
    """Write what the model predicts for a scene.

    Args:
        inputs: a file per modality, by the names the model was trained under.
        overlap: share of a window's side that neighbours have in common.
        window_m: side of a window on the ground in metres, above 0; by default that of the samples the model
            was trained on.

    Raises:
        ConfigError: for modalities that the model does not take, files of different ground, or a window that
            is none.
        RunError: for files that cannot be read, and for models whose labels are no maps.
    """
    if model.type not in ("segmentation", "regression"):
        raise RunError(f"a {model.type} model tells one label per image: it makes no map")
    theirs = {own: name for name, own in model.own_names.items()}
    if stray := set(inputs) - set(theirs):
        raise ConfigError(f"{', '.join(sorted(stray))}: the model takes {', '.join(theirs)}")
    with ExitStack() as stack:
        maps: dict[str, Raster] = {
            theirs[own]: stack.enter_context(
                measured_raster(path, model.adapters[theirs[own]].row, model.nodata.get(own))
            )
            for own, path in inputs.items()
        }
        check_same_ground(maps)
        scene = _Scene(model, maps, overlap, *_sides(model, window_m))
        out.parent.mkdir(parents=True, exist_ok=True)
        dtype = "uint8" if model.type == "segmentation" else "float32"
        nodata = _nodata(model)
        writer = stack.enter_context(created(out, model.label, scene.grid, 1, dtype, nodata))
        with _progress() as bar:
            task = bar.add_task("predict", total=len(scene.tiling.tops))
            for number, top in enumerate(scene.tiling.tops):
                scene.add_row(top, batch)
                following = scene.tiling.tops[number + 1 : number + 2]
                at, values, covered = scene.finished(following[0] if following else None)
                writer.write(_values(values, covered, model, nodata), at)
                bar.advance(task)


class _Scene:
    """The windows of the sources, and the blend of what the model makes of them."""

    def __init__(
        self,
        model: SavedModel,
        maps: dict[str, Raster],
        overlap: float,
        ground_m: float,
        shown_m: float,
    ):
        self._model, self._maps, self._ground_m = model, maps, ground_m
        self._shown_m = shown_m, shown_m
        self._device = next(model.head.parameters()).device
        self.grid = next(iter(maps.values())).grid
        height_m, width_m = self.grid.height * GRID_M, self.grid.width * GRID_M
        pixels_m = [_gsd(row) for row in (model.label, *(model.adapters[n].row for n in maps))]
        try:
            self.tiling = Tiling.over(height_m, width_m, ground_m, overlap, pixels_m)
        except ValueError as error:
            raise ConfigError(f"{error}; write --window with a smaller one") from error
        gsd = _gsd(model.label)
        self._size = round(ground_m / gsd)
        channels = len(model.values) or 1
        self._height = round(height_m / gsd)
        width = round(width_m / gsd)
        self._blend = Blend(channels, width, self._size, round(self._size * overlap))

    def add_row(self, top: float, batch: int) -> None:
        """Predict one row of windows into the blend."""
        waiting: list[Window] = []
        for window in self._windows(top):
            waiting.append(window)
            if len(waiting) == batch:
                self._predict(waiting)
                waiting = []
        if waiting:
            self._predict(waiting)

    def finished(self, next_top: float | None) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows that no later window reaches: their top, means [C, h, W], covered [h, W]."""
        gsd = _gsd(self._model.label)
        return self._blend.finished(self._height if next_top is None else round(next_top / gsd))

    def _windows(self, top: float) -> Iterator[Window]:
        """Windows with a measurement of any modality."""
        for left in self.tiling.lefts:
            images, measured = {}, np.zeros((self._size, self._size), dtype=bool)
            for name, raster in self._maps.items():
                adapter = self._model.adapters[name]
                gsd = _gsd(adapter.row)
                size = round(self._ground_m / gsd)
                part = raster.read(round(top / gsd), round(left / gsd), size, size)
                there = measured_pixels(part, adapter.row)
                if there.any():
                    images[name] = adapter(part, self._shown_m)
                    measured |= _nearest(there, self._size)
            if images:
                yield Window(left, images, measured)

    @torch.no_grad()
    def _predict(self, windows: list[Window]) -> None:
        model, images, present, known = self._model, {}, {}, {}
        for name, adapter in model.adapters.items():
            if not any(name in w.images for w in windows):
                continue
            size = len(adapter.intake.bands), *adapter.size(self._shown_m)
            nothing = torch.full(size, torch.nan)
            images[name] = torch.stack([w.images.get(name, nothing) for w in windows])
            present[name] = torch.tensor([name in w.images for w in windows])
            known[name] = adapter.hide(images[name], model.without_bands.get(name, ()))
        images = {n: x.to(self._device) for n, x in images.items()}
        present = {n: x.to(self._device) for n, x in present.items()}
        maps = [m.float() for m in model.backbone(images, present, model.layers, known)]
        made = model.head(maps, (self._size, self._size)).float()
        # Logits are no shares: windows vote with probabilities.
        made = made.softmax(1) if len(model.values) else made * model.scale.std + model.scale.mean
        for window, value in zip(windows, made.cpu().numpy(), strict=True):
            left = round(window.left / _gsd(model.label))
            self._blend.add(value, left, window.measured)


def _nodata(model: SavedModel) -> float | None:
    """What stands where nothing was measured; None where all values of uint8 are classes."""
    if model.type == "regression":
        return math.nan
    if model.label.nodata is not None:
        return model.label.nodata
    return next((v for v in range(255, -1, -1) if v not in model.values), None)


def _values(
    mean: np.ndarray, covered: np.ndarray, model: SavedModel, nodata: float | None
) -> np.ndarray:
    """Blended rows as they are stored: [1, h, W]."""
    if model.type == "regression":
        return np.where(covered, mean, np.nan).astype(np.float32)
    values = np.array(model.values, dtype=np.uint8)
    best = values[np.nan_to_num(mean).argmax(0)]
    return np.where(covered, best, np.uint8(nodata or 0))[None]


def _sides(model: SavedModel, asked: float | None) -> tuple[float, float]:
    """Side of a window on the ground, and of the ground that the backbone is shown it as."""
    if asked is not None and not 0 < asked < math.inf:
        raise ConfigError(f"--window {asked:g}: write the side of a window in metres, above 0")
    ground, shown = max(zip(model.ground_m, model.window_m, strict=True))
    if asked in (None, ground):
        return ground, shown
    if model.backbone.window_m is not None:
        raise ConfigError(f"--window {asked:g}: this backbone sees {ground:g} m only")
    steps = [adapter.intake.step_m * ground / shown for adapter in model.adapters.values()]
    if any(not math.isclose(asked / step, round(asked / step), rel_tol=1e-6) for step in steps):
        told = ", ".join(f"{step:g} m" for step in steps)
        raise ConfigError(f"--window {asked:g}: not a multiple of the backbone's patches of {told}")
    return asked, asked * shown / ground


def _gsd(row: Modality) -> float:
    assert row.gsd_m is not None
    return row.gsd_m


def _nearest(mask: np.ndarray, size: int) -> np.ndarray:
    """A square mask at another size."""
    at = np.arange(size) * len(mask) // size
    return mask[np.ix_(at, at)]


def _progress() -> Progress:
    rows = TextColumn("{task.completed}/{task.total} rows of windows")
    columns: tuple[Any, ...] = (BarColumn(), rows, TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))
