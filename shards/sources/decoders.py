"""The bytes of one member of a WebDataset -> one part of a sample, by what its name ends in.

    .npy .npz                 an array; an .npz holds one           maps, vectors, coordinates
    .b2                       our own codec                         maps
    .tif .tiff .png .jpg      the picture's bands: (C, H, W)        maps
    .cls                      a class number, made one-hot          vectors
    .txt                      UTF-8                                 text, date

Arrays are converted to the row's type where nothing is lost. (H, W) is taken for (1, H, W); any
other shape must be the row's.
"""

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from configs.schema.modality import Kind, Modality
from shards.codec import decode_blosc2
from shards.errors import SampleError
from shards.sample import Part, SampleMeta
from shards.sources.convert import invalid_pixels, to_row
from shards.sources.maps import iso_day
from shards.sources.own_rows import hot
from shards.sources.rasters import read_pixels

_MAPS: tuple[Kind, ...] = ("image", "classes")
_ARRAYS: tuple[Kind, ...] = (*_MAPS, "vector", "coordinates")
# What the libraries below raise for bytes that are not what their name says.
_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError, OverflowError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def accepts(suffix: str, kind: Kind) -> bool:
    """Whether members that end in `suffix` can be parts of this kind."""
    extension = _extension(suffix)
    return extension in _DECODERS and kind in _DECODERS[extension][1]


def decode_member(suffix: str, data: bytes, row: Modality, where: str) -> Part:
    """The part a member holds. Raises SampleError, which names `where`, for anything else."""
    decode, _ = _DECODERS[_extension(suffix)]
    try:
        return decode(data, row, where)
    except SampleError:
        raise
    except _ERRORS as error:
        raise SampleError(f"{where}: {error}") from error


def decode_meta_json(data: bytes, source: str, where: str) -> SampleMeta:
    """Place and time from the keys lon, lat, crs, transform, times, cloud, products; all optional.

    Raises SampleError for values of another type.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        lon, lat = _number(values.get("lon")), _number(values.get("lat"))
        if lon is None or lat is None:
            lon = lat = None
        transform = values.get("transform")
        crs = values.get("crs")
        return SampleMeta(
            lon=lon,
            lat=lat,
            crs=str(crs) if crs is not None else None,
            transform=_six(transform) if transform is not None else None,
            times={name: _day(text) for name, text in _texts(values.get("times")).items()},
            source=source,
            cloud=_number(values.get("cloud")),
            products=_texts(values.get("products")),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SampleError(f"{where}: not a sample's meta data: {error}") from error


def _extension(suffix: str) -> str:
    return suffix.rpartition(".")[2].lower()


def _as_part(array: np.ndarray, row: Modality, where: str) -> np.ndarray:
    """The array in the row's shape and type."""
    if array.dtype.kind not in "buif":
        raise SampleError(f"{where}: values of type {array.dtype} are no numbers")
    if row.is_map and array.ndim == 2:
        array = array[None]
    size = 2 if row.kind == "coordinates" else row.num_bands
    if array.ndim != (3 if row.is_map else 1) or len(array) != size or 0 in array.shape:
        expected = f"({size}, H, W)" if row.is_map else f"({size},)"
        raise SampleError(f"{where}: {row.name} is {expected}, this is {array.shape}")
    return to_row(array, invalid_pixels(array, None), row, where)


def _npy(data: bytes, row: Modality, where: str) -> Part:
    return _as_part(_read_npy(data), row, where)


def _npz(data: bytes, row: Modality, where: str) -> Part:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise SampleError(f"{where}: an .npz of the arrays {names}; it must hold one")
        return _as_part(_read_npy(archive.read(names[0])), row, where)


def _b2(data: bytes, row: Modality, where: str) -> Part:
    return _as_part(decode_blosc2(data), row, where)


def _tiff(data: bytes, row: Modality, where: str) -> Part:
    import warnings

    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with MemoryFile(data) as memory, memory.open() as file:
                return read_pixels(file, row, where)
        except RasterioError as error:
            raise SampleError(f"{where}: not readable as GeoTIFF: {error}") from error


def _picture(data: bytes, row: Modality, where: str) -> Part:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            array = np.asarray(image)
    except Image.DecompressionBombError as error:
        raise SampleError(f"{where}: {error}") from error
    return _as_part(np.moveaxis(array, 2, 0) if array.ndim == 3 else array, row, where)


def _label(data: bytes, row: Modality, where: str) -> Part:
    return hot([int(data.decode())], row, where)


def _text(data: bytes, row: Modality, where: str) -> Part:
    text = data.decode()
    return text.strip() if row.kind == "date" else text


def _read_npy(data: bytes) -> np.ndarray:
    """An array of plain values from any version of the format; never runs what it holds."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"NumPy format {version}; write plain arrays with numpy.save")
    shape, fortran, dtype = read[version](stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    # A header may claim any size: numpy.frombuffer takes what is there, and no more.
    flat = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _number(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _six(values: Any) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = map(float, values)
    return (a, b, c, d, e, f)


def _day(text: str) -> str:
    day = iso_day(text)
    if day is None:
        raise ValueError(f"{text!r} is not a day")
    return day


def _texts(values: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in (values or {}).items()}


_DECODERS: dict[str, tuple[Callable[[bytes, Modality, str], Part], tuple[Kind, ...]]] = {
    "npy": (_npy, _ARRAYS),
    "npz": (_npz, _ARRAYS),
    "b2": (_b2, _MAPS),
    "tif": (_tiff, _MAPS),
    "tiff": (_tiff, _MAPS),
    "png": (_picture, _MAPS),
    "jpg": (_picture, _MAPS),
    "jpeg": (_picture, _MAPS),
    "cls": (_label, ("vector",)),
    "txt": (_text, ("text", "date")),
}
