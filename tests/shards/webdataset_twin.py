"""Tiny foreign tars, written by tarfile, and their members in every form that is read."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import WebDatasetSourceConfig
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.webdataset import WebDatasetSource
from tests.shards.helpers import write_tiff

PX = 6
Members = Sequence[tuple[str, bytes]]


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def npz(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, *arrays)
    return stream.getvalue()


def picture(array: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, form)
    return stream.getvalue()


def tiff(folder: Path, array: np.ndarray, **options: Any) -> bytes:
    write_tiff(folder / "x.tif", array, **options)
    return (folder / "x.tif").read_bytes()


def dem(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, (1, PX, PX)).astype(np.int16)


def write_tar(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def source_of(url: object, members: dict[str, str], **options: Any) -> WebDatasetSource:
    urls = url if isinstance(url, tuple) else (str(url),)
    return WebDatasetSource(WebDatasetSourceConfig(urls=urls, members=members, **options))


def samples_of(url: object, members: dict[str, str], **options: Any) -> list[Sample]:
    source = source_of(url, members, **options)
    return [checked(source.read(ref), source.rows) for ref in refs_of(source.listing())]


def one(folder: Path, suffix: str, data: bytes, name: str, **options: Any) -> Sample:
    """The only sample of a tar with one member of interest and a good one beside it."""
    path = write_tar(folder / "one.tar", [(f"a.{suffix}", data), ("a.ok.txt", b"fine")])
    (sample,) = samples_of(path, {suffix: name, "ok.txt": "captions"}, **options)
    return sample
