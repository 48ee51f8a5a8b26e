"""One sample of GEO-Bench v1: an HDF5 file, a dataset per band and date, everything else in a pickle.

"04 - Red", "04 - Red_2020-05-11"     (H, W), or (H, W, n) for n bands in one
"label", "label_2020-05-11"           (H, W): segmentation
attribute "pickle"                    {descriptor: {date, band_info, transform, crs, ...},
                                       "bands_order": [...], "label": int | list}
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shards.errors import SampleError
from shards.sources.grid import Affine
from shards.sources.maps import iso_day
from shards.sources.unpickle import Stub, UnsafePickle, loads_text, plain

LABEL = "label"
UNKNOWN = "SpectralBand"
_DATED = re.compile(r"(.+?)_(\d{4}-\d{2}-\d{2})(?:_.*)?")


class Band(NamedTuple):
    """One dataset: a band at one date. `sensor` is the class of GEO-Bench that describes it."""

    descriptor: str
    name: str
    sensor: str
    day: str | None
    gsd_m: float | None
    affine: Affine | None
    wkt: str | None
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bands(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else 1


class Header(NamedTuple):
    """What a file holds, its pixels not read. `label` is the label of the whole sample, if any."""

    bands: tuple[Band, ...]
    label_band: Band | None
    label: Any


def open_sample(path: Path) -> Any:
    """The open HDF5 file. Raises SampleError."""
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise SampleError(f"{path}: no such file, though the partition names it") from error
    except OSError as error:
        raise SampleError(f"{path}: not readable as HDF5: {error}") from error


def read_header(path: Path, file: Any) -> Header:
    """What the open file holds. Raises SampleError when its attributes cannot be read or trusted."""
    try:
        attributes = loads_text(str(file.attrs["pickle"]))
        if not isinstance(attributes, dict):
            raise UnsafePickle("its attributes are no dictionary")
        order = attributes.get("bands_order")
        names = dict.fromkeys([*(order if isinstance(order, list) else ()), *sorted(file)])
        bands = [_band(name, file[name], attributes.get(name)) for name in names]
        label = plain(attributes.get(LABEL))
    except (KeyError, TypeError, AttributeError, OSError, UnsafePickle) as error:
        reason = error if isinstance(error, UnsafePickle) else f"damaged: {error!r}"
        raise SampleError(f"{path}: its attributes cannot be used: {reason}") from error
    maps = [band for band in bands if band.name == LABEL]
    return Header(tuple(b for b in bands if b.name != LABEL), maps[-1] if maps else None, label)


def read_pixels(path: Path, file: Any, bands: list[Band]) -> np.ndarray:
    """The pixels of bands of one size: (C, H, W). Raises SampleError."""
    sizes = {band.shape[:2] for band in bands}
    if len(sizes) > 1 or not all(len(band.shape) in (2, 3) for band in bands):
        shapes = sorted({band.shape for band in bands})
        raise SampleError(f"{path}: bands of the shapes {shapes} make no image")
    try:
        arrays = [np.atleast_3d(file[band.descriptor][()]) for band in bands]
    except (OSError, KeyError) as error:
        raise SampleError(f"{path}: pixels cannot be read: {error}") from error
    return np.moveaxis(np.concatenate(arrays, axis=2), 2, 0)


@functools.lru_cache(maxsize=256)
def crs_name(wkt: str) -> str:
    """A CRS as `EPSG:32635`, or as text where it has no such code. Raises SampleError."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_wkt(wkt).to_string()
    except CRSError as error:
        raise SampleError(f"the CRS {wkt[:60]!r} is not understood: {error}") from error


def _band(descriptor: str, dataset: Any, attributes: Any) -> Band:
    told: dict[str, Any] = attributes if isinstance(attributes, dict) else {}
    name, day = _parts(descriptor)
    info = told.get("band_info")
    if isinstance(info, Stub) and isinstance(info.get("name"), str):
        name = info.get("name")
    date = plain(told.get("date"))
    gsd_m = plain(told.get("spatial_resolution"))
    return Band(
        descriptor=descriptor,
        name=name,
        sensor=info.class_name if isinstance(info, Stub) else UNKNOWN,
        day=(iso_day(str(date)) if date else None) or day,
        gsd_m=float(gsd_m) if isinstance(gsd_m, int | float) and gsd_m > 0 else None,
        affine=_affine(told.get("transform")),
        wkt=_wkt(told.get("crs")),
        shape=dataset.shape,
        dtype=dataset.dtype,
    )


def _parts(descriptor: str) -> tuple[str, str | None]:
    """`04 - Red_2020-05-11` -> band and day."""
    match = _DATED.fullmatch(descriptor)
    return (match[1], iso_day(match[2])) if match else (descriptor, None)


def _affine(stub: Any) -> Affine | None:
    if not isinstance(stub, Stub) or stub.class_name != "Affine":
        return None
    values = tuple(plain(value) for value in stub.args[:6])
    if len(values) != 6 or not all(isinstance(v, int | float) for v in values):
        return None
    a, b, c, d, e, f = map(float, values)
    return (a, b, c, d, e, f)


def _wkt(stub: Any) -> str | None:
    if not isinstance(stub, Stub):
        return None
    texts = [text for text in (stub.state, *stub.args) if isinstance(text, str)]
    return texts[0] if texts else None
