"""`{split}_metadata.parquet`: which sample lies in which shard of TerraMesh, and where on Earth.

Columns used: `tar`, `zarr` (both with or without folder, the latter with or without its suffix),
`center_lon`, `center_lat`. Nine million rows stay in columns.
"""

from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import xxhash

from shards.errors import SourceError
from shards.tar import escape_key

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".zarr.zip"

_NEEDED = ("tar", "zarr")
_PLACES = ("center_lon", "center_lat")
_PIECE_BYTES = 1 << 20
# What `escape_key` changes.
_UNUSABLE = r"[^!-~]|[%./\\]"


class Folder(Protocol):
    """Where TerraMesh lies: a folder or a URL."""

    def open(self, name: str) -> BinaryIO | None: ...


class Samples(NamedTuple):
    """The samples of one shard in their order; places are degrees, NaN where unknown."""

    keys: "pa.Array"
    lon: np.ndarray
    lat: np.ndarray


def nowhere(keys: list[str]) -> Samples:
    """Samples of unknown place."""
    import pyarrow as pa

    unknown = np.full(len(keys), np.nan)
    return Samples(pa.array(keys, pa.large_string()), unknown, unknown)


def shards(folder: Folder, split: str) -> list[str]:
    """The names of a split's shards, sorted; none without the parquet. Raises SourceError."""
    table = _read(folder, split, ("tar",))
    return sorted(_base_names(table.column("tar")).unique().to_pylist()) if table else []


def read(folder: Folder, split: str) -> dict[str, Samples] | None:
    """Samples by shard name; None without the parquet. Raises SourceError for one that is not it."""
    import pyarrow as pa

    table = _read(folder, split, (*_NEEDED, *_PLACES))
    if table is None:
        return None
    encoded = _base_names(table.column("tar")).combine_chunks().dictionary_encode()
    order = np.argsort(encoded.indices.to_numpy(), kind="stable")
    keys = _keys(table.column("zarr")).take(pa.array(order)).combine_chunks()
    lon, lat = (
        table.column(name).to_numpy().astype(np.float64)[order]
        if name in table.column_names
        else np.full(len(keys), np.nan)
        for name in _PLACES
    )
    samples, start = {}, 0
    for shard, num in zip(
        encoded.dictionary.to_pylist(), np.bincount(encoded.indices), strict=True
    ):
        stop = start + int(num)
        samples[shard] = Samples(keys.slice(start, int(num)), lon[start:stop], lat[start:stop])
        start = stop
    return samples


def digest(folder: Folder, split: str) -> str | None:
    """Hex digest of the parquet's bytes; None where there is none."""
    file = folder.open(_name(split))
    if file is None:
        return None
    state = xxhash.xxh3_128()
    with file:
        while piece := file.read(_PIECE_BYTES):
            state.update(piece)
    return state.hexdigest()


def _name(split: str) -> str:
    return f"{split}_metadata.parquet"


def _read(folder: Folder, split: str, columns: tuple[str, ...]) -> "pa.Table | None":
    """Those of the columns that there are; None without the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder.open(_name(split))
    if file is None:
        return None
    where = f"{folder}/{_name(split)}"
    try:
        with file:
            parquet = pq.ParquetFile(file)
            there = parquet.schema_arrow.names
            missing = [name for name in _NEEDED if name not in there]
            if missing:
                raise SourceError(
                    f"{where} has no column {' and '.join(missing)}, but {', '.join(there)}; it is "
                    "not TerraMesh's: remove it, or download it again"
                )
            return parquet.read([name for name in columns if name in there])
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{where} is not readable: {error}; download it again") from error


def _base_names(paths: "pa.ChunkedArray") -> "pa.ChunkedArray":
    return _compute().replace_substring_regex(paths, "^.*/", "")


def _keys(members: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    pc = _compute()
    stems = pc.replace_substring_regex(_base_names(members), r"\.zarr\.zip$", "")
    if pc.any(pc.match_substring_regex(stems, _UNUSABLE)).as_py():
        stems = pa.chunked_array([[escape_key(stem) for stem in stems.to_pylist()]])
    return stems.cast(pa.large_string())


def _compute() -> Any:
    # Untyped on purpose: pyarrow makes these functions when it is imported.
    import pyarrow.compute

    return pyarrow.compute
