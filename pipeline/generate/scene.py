"""One scene of any size: read, generated and written window by window, blended where windows overlap.

OUT/config.yaml        what was asked
OUT/<M>.tif            each generated map on the ground of the sources: CRS and transform are kept (or .npy
                       where all sources are .npy)
OUT/<M>_spread.tif     how far draws are apart per pixel, with several draws: an uncertainty
OUT/<M>.jsonl          texts, places and dates, one line per window
OUT/sheet.png          sources, results and truths, made smaller
OUT/scores.json        scores where a truth was given; written last, so it marks the end

Memory holds one row of windows, whatever the size of the scene.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from configs import ConfigError, to_yaml
from configs.registry import modality
from configs.schema import GenerateConfig, Modality
from pipeline.data.transforms import measured_pixels
from pipeline.engine.identity import MADE_OF
from pipeline.engine.lifecycle import OK, write_atomic
from pipeline.engine.metrics import say
from pipeline.generate.chain import generate_targets
from pipeline.generate.rasters import Raster, check_same_ground, created, opened
from pipeline.generate.scene_sheet import write_scene_sheet
from pipeline.generate.scores import MapScore, table
from pipeline.generate.tiling import Blend, Tiling
from pipeline.generate.trained import Trained, sampling
from pipeline.stage2.samples import Content, to_patches

ROWS_AT_ONCE = 512


def generate_scene(config: GenerateConfig, trained: Trained, digest: str = "") -> int:
    """Generate, blend, write, score; `digest` says what it is made of. Raises ConfigError or RunError."""
    rows = {name: modality(name) for name in (*config.inputs, *config.truth, *config.target)}
    config.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        maps: dict[str, Raster] = {
            name: stack.enter_context(opened(Path(value), rows[name]))
            for name, value in config.inputs.items()
            if rows[name].is_map
        }
        if not maps:
            raise ConfigError("inputs name no map: nothing tells how large the scene is")
        check_same_ground(maps)
        scene = _Scene(config, trained, rows, maps)
        outputs = {
            name: stack.enter_context(_Output(scene, name, "", rows[name]))
            for name in config.target
        }
        spreads = {
            name: stack.enter_context(_Output(scene, name, "_spread", rows[name]))
            for name in config.target
            if rows[name].is_map and config.num_draws > 1 and config.estimate == "draw"
        }
        for number, top in enumerate(scene.tiling.tops):
            for left, made, apart in scene.row(number, top):
                for name, value in made.items():
                    outputs[name].add(value, top, left)
                for name, value in apart.items():
                    spreads[name].add(value, top, left)
            following = scene.tiling.tops[number + 1 : number + 2]
            for output in (*outputs.values(), *spreads.values()):
                output.flush(following[0] if following else None)
            say(f"generate: row {number + 1} of {len(scene.tiling.tops)} of windows")
    _finish(config, rows, {n: o.path for n, o in outputs.items() if rows[n].is_map}, digest)
    return OK


class _Scene:
    """The windows of the sources, and what the model makes of them."""

    def __init__(
        self,
        config: GenerateConfig,
        trained: Trained,
        rows: dict[str, Modality],
        maps: dict[str, Raster],
    ):
        self.config, self._trained, self._rows, self._maps = config, trained, rows, maps
        self.grid = next(iter(maps.values())).grid
        window_m = trained.layout.window_m
        try:
            self.tiling = Tiling.over(
                self.grid.height * 10, self.grid.width * 10, window_m, config.scene.overlap,
                [row.gsd_m for row in rows.values() if row.gsd_m is not None],
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"inputs: {error}, which the model was trained on") from error
        self.is_npy = all(r.path.suffix == ".npy" for r in maps.values())
        self._sources = dict(zip(config.inputs, trained.sources(tuple(config.inputs)), strict=True))
        self._targets = trained.targets(config.target)
        self._how = sampling(config, trained)
        self._fixed = {
            stream: trained.decoder(name).encode(_value(config.inputs[name], rows[name]))
            for name, stream in self._sources.items()
            if name not in maps
        }

    def row(
        self, number: int, top: float
    ) -> Iterator[tuple[float, dict[str, Any], dict[str, Any]]]:
        """Windows of one row: left in metres, results, spreads. Those without a measurement are skipped."""
        found: list[tuple[float, Content, int]] = []
        for column, left in enumerate(self.tiling.lefts):
            content = self._content(top, left)
            if content is not None:
                # The same random numbers for a window however windows are batched.
                found.append((left, content, number * len(self.tiling.lefts) + column))
        for start in range(0, len(found), self.config.batch):
            yield from self._generate(found[start : start + self.config.batch])

    def _generate(
        self, windows: list[tuple[float, Content, int]]
    ) -> Iterator[tuple[float, dict[str, Any], dict[str, Any]]]:
        lefts, contents, ids = (list(part) for part in zip(*windows, strict=True))
        drawn = generate_targets(
            self._trained.model, contents, ids, list(self._targets.values()), self._how,
            chained=self.config.chain, expected=self.config.estimate == "expected",
        )  # fmt: skip
        values = {
            name: self._trained.values(name, drawn[stream], self._rows[name])
            for name, stream in self._targets.items()
        }
        for i, left in enumerate(lefts):
            made = {name: found[i] for name, (found, _) in values.items()}
            yield left, made, {name: apart[i] for name, (_, apart) in values.items() if apart}

    def _content(self, top: float, left: float) -> Content | None:
        streams = dict(self._fixed)
        for name, raster in self._maps.items():
            row, stream = self._rows[name], self._trained.layout.streams[self._sources[name]]
            size = row.pixels(self.tiling.window_m)
            window = raster.read(row.pixels(top), row.pixels(left), size, size)
            if not measured_pixels(window, row).any():
                continue
            if stream.kind == "pixels":
                normalised, _ = self._trained.normalisers[stream.modality].forward(window)
                streams[self._sources[name]] = to_patches(normalised, stream)
            else:
                streams[self._sources[name]] = self._trained.decoder(name).encode(window)
        if len(streams) == len(self._fixed):
            return None
        return Content(dict(sorted(streams.items())))


class _Output:
    """Where the windows of one target go."""

    def __init__(self, scene: _Scene, name: str, suffix: str, row: Modality):
        self._row, self._is_spread, self._scene = row, bool(suffix), scene
        if not row.is_map:
            self.path = scene.config.out / f"{name}.jsonl"
            self._lines: list[str] = []
            return
        end = ".npy" if scene.is_npy else ".tif"
        self.path = scene.config.out / f"{name}{suffix}{end}"
        self._votes = row.kind == "classes" and not suffix
        channels = row.num_classes if self._votes else 1 if row.kind == "classes" else row.num_bands
        size = row.pixels(scene.tiling.window_m)
        overlap = round(size * scene.config.scene.overlap)
        width = row.pixels(scene.grid.width * 10)
        self._height = row.pixels(scene.grid.height * 10)
        self._blend = Blend(channels, width, size, overlap)
        dtype = "uint8" if self._votes else "float32"
        self._nodata = _unseen(row) if self._votes else float("nan")
        self._file = created(
            self.path,
            row,
            scene.grid,
            1 if row.kind == "classes" else channels,
            dtype,
            self._nodata,
        )

    def __enter__(self) -> "_Output":
        if self._row.is_map:
            self._writer = self._file.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._row.is_map:
            self._file.__exit__(kind, error, trace)
        elif kind is None:
            write_atomic(self.path, "".join(self._lines))

    def add(self, value: Any, top: float, left: float) -> None:
        if not self._row.is_map:
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            self._lines.append(
                json.dumps({"top_m": top, "left_m": left, self._row.name: plain}) + "\n"
            )
            return
        if self._votes:
            value = (np.arange(self._row.num_classes)[:, None, None] == value[0]).astype(np.float32)
        self._blend.add(value, self._row.pixels(left))

    def flush(self, next_top: float | None) -> None:
        """Write the rows that no window from `next_top` on reaches; None: all that is left."""
        if not self._row.is_map:
            return
        until = self._height if next_top is None else self._row.pixels(next_top)
        top, mean, covered = self._blend.finished(until)
        if self._votes:
            best = np.nan_to_num(mean).argmax(0).astype(np.uint8)
            mean = np.where(covered, best, _unseen(self._row)).astype(np.uint8)[None]
        self._writer.write(mean, top)


def _finish(
    config: GenerateConfig, rows: dict[str, Modality], made: dict[str, Path], digest: str
) -> None:
    """Picture and scores, from the maps that were made."""
    scores = {}
    for name, path in made.items():
        if name in config.truth:
            with (
                opened(Path(config.truth[name]), rows[name]) as truth,
                opened(path, rows[name]) as guess,
            ):
                check_same_ground({name: guess, f"the truth of {name}": truth})
                scores[name] = {"model": _score(guess, truth, rows[name])}
    write_scene_sheet(config, rows, made)
    write_atomic(config.out / "config.yaml", to_yaml(config))
    record = {
        "source": config.sources,
        "target": config.target,
        "scores": table(scores),
        MADE_OF: digest,
    }
    write_atomic(config.out / "scores.json", json.dumps(record, indent=1))
    say(f"generate {','.join(config.sources)} -> {', '.join(config.target)}: {config.out}")


def _score(guess: Raster, truth: Raster, row: Modality) -> MapScore:
    score = MapScore(row)
    height, width = row.pixels(guess.grid.height * 10), row.pixels(guess.grid.width * 10)
    for top in range(0, height, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, height - top)
        a, b = (r.read(top, 0, count, width) for r in (guess, truth))
        # What the sources did not show is no mistake of the model.
        known = measured_pixels(a, row) if a.dtype.kind == "f" else (a != _unseen(row)).all(0)
        if known.any():
            score.add(a[:, known][:, None], b[:, known][:, None])
    return score


def _unseen(row: Modality) -> int:
    """What a map of classes holds where the sources have no measurement: no class."""
    return 255 if row.nodata is None else int(row.nodata)


def _value(text: str, row: Modality) -> Any:
    """What a source that is no map is given as. Raises ConfigError."""
    if row.kind != "coordinates":
        return text
    try:
        lon, lat = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"inputs.{row.name}: write longitude,latitude, got {text!r}") from error
    return np.array([lon, lat])
