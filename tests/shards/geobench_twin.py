"""Tiny GEO-Bench tasks, written as GEO-Bench's own code writes them, pickles included."""

import contextlib
import datetime
import json
import pickle
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import affine
import h5py
import numpy as np
import rasterio.crs

from configs.schema import GeoBenchSourceConfig
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.geobench import GeoBenchSource

PX = 6
S2 = (
    *("01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - Vegetation Red Edge"),
    *("06 - Vegetation Red Edge", "07 - Vegetation Red Edge", "08 - NIR"),
    *("08A - Vegetation Red Edge", "09 - Water vapour", "10 - SWIR - Cirrus", "11 - SWIR"),
    "12 - SWIR",
)
NO_CIRRUS = tuple(name for name in S2 if "Cirrus" not in name)
LANDSAT = ("01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - NIR", "06 - SWIR1")
CLASSES = {
    "geobench.dataset": ("Sentinel2", "Landsat8", "SpectralBand", "ElevationBand"),
    "geobench.label": ("Classification", "MultiLabelClassification"),
    "geobench.task": ("TaskSpecifications",),
}
MORE = {"geobench.dataset": ("HyperSpectralBands", "SegmentationClasses")}


@contextlib.contextmanager
def geobench() -> Iterator[Any]:
    """GEO-Bench's classes, as far as pickles name them; away again when the block ends."""
    package = types.ModuleType("geobench")
    modules = {"geobench": package}
    for where in CLASSES:
        module = types.ModuleType(where)
        for name in (*CLASSES[where], *MORE.get(where, ())):
            setattr(module, name, type(name, (), {"__module__": where}))
            setattr(package, name, getattr(module, name))
        modules[where] = module
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield package
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def made(cls: type, **attributes: Any) -> Any:
    instance = cls()
    vars(instance).update(attributes)
    return instance


class Band:
    """What one dataset of a sample is written from."""

    def __init__(
        self,
        name: str,
        data: np.ndarray,
        kind: str = "Sentinel2",
        date: datetime.date | None = None,
        gsd_m: float = 10,
    ) -> None:
        self.name, self.data, self.kind, self.date, self.gsd_m = name, data, kind, date, gsd_m

    @property
    def descriptor(self) -> str:
        return self.name + (f"_{self.date:%Y-%m-%d}" if self.date else "")


def write_sample(
    path: Path, bands: Sequence[Band], label: Any = None, *, east_m: float | None = None
) -> None:
    """`write_sample_hdf5` of GEO-Bench."""
    with h5py.File(path, "w") as file, geobench() as gb:
        attributes: dict[str, Any] = {} if label is None else {"label": label}
        transform = east_m and affine.Affine(10, 0, east_m, 0, -10, 5_000_000)
        for band in bands:
            file.create_dataset(band.descriptor, data=band.data)
            attributes[band.descriptor] = {
                "date": band.date,
                "date_id": band.date,
                "spatial_resolution": np.float64(band.gsd_m),
                "band_info": made(getattr(gb, band.kind), name=band.name, alt_names=()),
                "meta_info": None,
                "transform": transform,
                "crs": rasterio.crs.CRS.from_epsg(32633) if east_m else None,
            }
        attributes["bands_order"] = [band.descriptor for band in bands]
        file.attrs["pickle"] = str(pickle.dumps(attributes, 4))


def write_task(
    folder: Path,
    splits: dict[str, list[str]],
    kind: str = "Classification",
    classes: Sequence[str] | None = ("forest", "river", "field"),
) -> None:
    """The files beside the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {"train": [], "valid": [], "test": []} | splits
    (folder / "default_partition.json").write_text(json.dumps(everything))
    if classes:
        attribute = "class_name" if kind == "MultiLabelClassification" else "_class_names"
        with geobench() as gb:
            label = made(
                getattr(gb, kind), n_classes=np.int64(len(classes)), **{attribute: list(classes)}
            )
            specs = made(gb.TaskSpecifications, label_type=label, bands_info=[])
            (folder / "task_specs.pkl").write_bytes(pickle.dumps(specs, 4))


def optical(names: Sequence[str], seed: int = 0, dtype: str = "int16") -> list[Band]:
    rng = np.random.default_rng(seed)
    return [Band(name, rng.integers(1, 9000, (PX, PX)).astype(dtype)) for name in names]


def source_of(folder: Path, **options: Any) -> GeoBenchSource:
    return GeoBenchSource(GeoBenchSourceConfig(path=folder, **options))


def only_sample(folder: Path, **options: Any) -> Sample:
    source = source_of(folder, **options)
    (ref,) = refs_of(source.listing())
    sample = source.read(ref)
    return checked(sample, source.rows)


def one(folder: Path, bands: Sequence[Band], label: Any = 1, **task: Any) -> Path:
    """A task of one sample."""
    write_task(folder, {"train": ["id_0"]}, **task)
    write_sample(folder / "id_0.hdf5", bands, label)
    return folder


def array(sample: Sample, name: str) -> np.ndarray:
    part = sample.parts[name]
    assert isinstance(part, np.ndarray)
    return part
