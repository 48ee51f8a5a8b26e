"""Labelled image files: a folder per class, or a table of images and masks.

What a file holds is an `ImageFile`: a registry modality, or bands by name. Pixels without a measurement
become the row's nodata, or NaN.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import ConfigError, modality_registry
from configs.registry import BandStatistics
from configs.schema import ClassFolders, ImageFile, ImageTable, Modality, TaskConfig
from pipeline.transfer.samples import SPLITS, check_apart, check_folder, file_state, share_of
from shards.errors import SampleError, SourceError
from shards.sources.convert import invalid_pixels
from shards.sources.geobench_file import LABEL
from shards.sources.maps import open_tiff
from shards.sources.own_rows import class_map_row, hot, image_row, label_row

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class _Entry:
    """One sample: files of its images, and its classes or the file of its mask."""

    key: str
    split: str
    images: dict[str, Path]
    classes: tuple[int, ...] = ()
    mask: Path | None = None


def open_files(config: ClassFolders | ImageTable, task: str) -> "_Files":
    """The samples of a folder or a table. Raises ConfigError or SourceError."""
    if isinstance(config, ClassFolders):
        entries, names = _class_folders(config)
        row = label_row(LABEL, f"{config.path.name}: class", names)
        return _Files({config.image.modality: config.image}, row, entries)
    entries, row = _table(config, task)
    return _Files({i.modality: i for i in config.images.values()}, row, entries)


def told_nodata(config: TaskConfig) -> dict[str, float]:
    """{modality: the value that a task's data says was not measured}, of folders and tables of images."""
    data = config.data
    images: list[ImageFile] = []
    if isinstance(data, ClassFolders):
        images = [data.image]
    elif isinstance(data, ImageTable):
        images = [*data.images.values()]
    return {i.modality: i.nodata for i in images if i.nodata is not None}


class _Files:
    def __init__(self, images: Mapping[str, ImageFile], label: Modality, entries: list[_Entry]):
        self._images, self._entries, self._label = images, entries, label
        self.rows = {
            name: _row(image, i) for i, (name, image) in enumerate(images.items())
        } | {LABEL: label}  # fmt: skip
        self.keys = [entry.key for entry in entries]
        split = np.array([entry.split for entry in entries])
        self.splits = {name: np.flatnonzero(split == name) for name in SPLITS}
        check_apart(self.splits, self.keys)

    def source(self) -> list[Any]:
        """What tells these samples from any others, as JSON values: labels, and the state of each file."""
        return [
            [e.key, e.split, e.classes, {n: file_state(p) for n, p in e.images.items()},
             e.mask and file_state(e.mask)]
            for e in self._entries
        ]  # fmt: skip

    def read(self, i: int, names: Iterable[str]) -> dict[str, Any]:
        entry, found = self._entries[i], {}
        for name in names:
            if name in entry.images:
                image = self._images[name]
                found[name] = _pixels(entry.images[name], self.rows[name], image.nodata)
            elif name == LABEL and entry.mask is not None:
                found[name] = _mask(entry.mask, self._label)
            elif name == LABEL and self._label.kind == "vector":
                found[name] = hot(entry.classes, self._label, entry.key)
        return found

    def subset(self, share: float) -> np.ndarray | None:
        return None

    def statistics(self, name: str) -> BandStatistics | None:
        return None


def _row(image: ImageFile, number: int) -> Modality:
    """The row of an image: the registry's where the bands are its own, else one of these bands."""
    known = modality_registry().get(image.modality)
    if known is not None and image.bands in ((), known.bands) and known.gsd_m == image.gsd_m:
        return known
    if not image.bands:
        raise ConfigError(
            f"image.modality={image.modality}: "
            + ("no such modality in the registry" if known is None else "of another gsd_m")
            + "; write image.bands=[...], the names of the file's channels in their order"
        )
    dtype = np.dtype(np.float32)
    return image_row(image.modality, image.modality, image.bands, dtype, image.gsd_m, number)


def _pixels(path: Path, row: Modality, nodata: float | None) -> np.ndarray:
    """[C, H, W], the row's nodata where nothing was measured. Raises SampleError."""
    with open_tiff(path, SampleError) as file:
        if file.count != row.num_bands:
            raise SampleError(
                f"{path} has {file.count} bands; {row.name} has {row.num_bands}: {', '.join(row.bands)}"
            )
        try:
            pixels = file.read()
        except Exception as error:
            raise SampleError(f"{path}: pixels cannot be read: {error}") from error
        told = nodata if nodata is not None else file.nodata
    invalid = invalid_pixels(pixels, told)
    x = pixels.astype(np.float32)
    if invalid is not None and invalid.any():
        x[invalid] = np.nan if row.nodata is None else row.nodata
    return x


def _mask(path: Path, row: Modality) -> np.ndarray:
    """A class map uint8, or targets float32: [1, H, W]. Raises SampleError."""
    with open_tiff(path, SampleError) as file:
        if file.count != 1:
            raise SampleError(f"{path} has {file.count} bands; a mask has one")
        pixels, nodata = file.read(), file.nodata
    if row.kind == "image":
        invalid = invalid_pixels(pixels, row.nodata if nodata is None else nodata)
        x = pixels.astype(np.float32)
        if invalid is not None:
            x[invalid] = np.nan if row.nodata is None else row.nodata
        return x
    known = {c.value for c in row.classes} | (
        {int(row.nodata)} if row.nodata is not None else set()
    )
    if nodata is not None and row.nodata is not None:
        pixels = np.where(pixels == nodata, pixels.dtype.type(row.nodata), pixels)
    strange = sorted(set(np.unique(pixels).tolist()) - known)
    if strange:
        raise SampleError(
            f"{path} has the values {strange[:5]}; the task's classes are 0 .. {max(known)}: add names "
            "to data.classes, or write data.nodata=VALUE"
        )
    return pixels.astype(np.uint8)


def _class_folders(config: ClassFolders) -> tuple[list[_Entry], list[str]]:
    check_folder(config.path)
    inner = _folders(config.path)
    published = set(inner) <= set(SPLITS) and "train" in inner
    roots = {name: config.path / name for name in inner} if published else {"": config.path}
    names = sorted({name for root in roots.values() for name in _folders(root)})
    entries = []
    for split, root in roots.items():
        for value, name in enumerate(names):
            for path in sorted((root / name).glob("*")):
                if path.suffix.lower() in _SUFFIXES:
                    key = str(path.relative_to(config.path))
                    mine = split or drawn_split(key, config.val, config.test)
                    entries.append(_Entry(key, mine, {config.image.modality: path}, (value,)))
    if not entries:
        raise SourceError(
            f"{config.path}: no images ({', '.join(_SUFFIXES)}) in folders of classes"
        )
    return entries, names


def _table(config: ImageTable, task: str) -> tuple[list[_Entry], Modality]:
    if not config.table.is_file():
        raise SourceError(f"{config.table}: no such table")
    try:
        with config.table.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{config.table}: not readable as CSV: {error}") from error
    wanted = [*config.images, config.label, *([config.split] if config.split else [])]
    have = list(lines[0]) if lines else []
    if missing := [name for name in wanted if name not in have]:
        raise SourceError(
            f"{config.table} has no column {', '.join(missing)}; it has {', '.join(have) or 'none'}"
        )
    is_mask = task in ("segmentation", "regression")
    texts = [[t.strip() for t in (line[config.label] or "").split(";")] for line in lines]
    names = list(config.classes)
    if not names and not is_mask:
        names = sorted({text for row in texts for text in row if text})
    row = _label_row(config, task, names)
    root = config.root or config.table.parent
    entries = []
    for number, (line, told) in enumerate(zip(lines, texts, strict=True)):
        images = {i.modality: root / line[c] for c, i in config.images.items() if line[c]}
        key = _key(next(iter(images.values())), root) if images else str(number)
        split = line[config.split] if config.split else drawn_split(key, config.val, config.test)
        if split not in SPLITS:
            raise SourceError(
                f"{config.table}, sample {number + 1}: split {split!r}; write train, val or test"
            )
        if strange := [] if is_mask else [t for t in told if t and t not in names]:
            raise SourceError(
                f"{config.table}, sample {number + 1}: class {strange[0]!r} is not in data.classes"
            )
        classes = () if is_mask else tuple(names.index(t) for t in told if t)
        mask = root / told[0] if is_mask and told[0] else None
        entries.append(_Entry(key, split, images, classes, mask))
    return entries, row


def _key(path: Path, root: Path) -> str:
    """The path below the root, so that splits drawn by it move with the data; else as it is written."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _label_row(config: ImageTable, task: str, names: list[str]) -> Modality:
    gsd = min(image.gsd_m for image in config.images.values())
    if task == "regression":
        row = image_row(LABEL, "target", ["value"], np.dtype(np.float32), gsd)
        nodata = float("nan") if config.nodata is None else config.nodata
        return row.model_copy(update={"unit": config.unit, "nodata": nodata})
    if len(names) < 2:
        raise ConfigError("data.classes: name two classes at least")
    if task != "segmentation":
        return label_row(LABEL, "label", names)
    row = class_map_row(LABEL, "label", names, gsd)
    if config.nodata is None:
        return row
    return row.model_copy(update={"nodata": config.nodata})


def drawn_split(key: str, val: float, test: float) -> str:
    """The split that a key always falls into."""
    share = share_of(key)
    return "test" if share < test else "val" if share < test + val else "train"


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
