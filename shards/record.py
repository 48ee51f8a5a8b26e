"""What a build learned about a shard while its pixels were in memory: `shard-000000.parquet`.

One row per sample, which become rows of samples.parquet; in the file's meta data the sums for the
statistics and what was left out. A restart never reads pixels twice, and the end of a build reads no
tar.

    key, lon, lat, crs, transform, times, products, cloud, source, cell, content

`cell` names the grid cell that splits are made of, `content` is a digest over the sample's parts.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.errors import ShardError
from shards.files import to_json
from shards.index import ShardIndex, committed
from shards.plan import grid_cells
from shards.sample import SampleMeta
from shards.stats import Statistics
from shards.writer import RECORD_SUFFIX

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Fault:
    """Something the source has that was left out: a part, or with `part` "" the whole sample."""

    key: str
    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}{self.part and '.'}{self.part}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """A shard's record, read back: sums, what was left out, and a row per sample."""

    statistics: dict[str, Any]
    faults: list[Fault]
    rows: "pa.Table"


def encode_record(
    index: ShardIndex,
    metas: Sequence[SampleMeta],
    statistics: dict[str, Any],
    faults: Sequence[Fault],
    cell_deg: float,
) -> bytes:
    """The bytes of a shard's record; the same for the same content."""
    import pyarrow as pa

    return _encode(index, pa.table(_columns(index, metas, cell_deg)), statistics, faults)


def rewrite_record(record: Record, index: ShardIndex, rows: Mapping[str, Modality]) -> bytes:
    """A shard's record for another index of the same samples, over the given rows."""
    # Modalities the shard's data set lacks were counted zero times.
    statistics = Statistics(rows).dump() | record.statistics
    return _encode(index, record.rows, statistics, record.faults)


def _encode(
    index: ShardIndex, table: "pa.Table", statistics: dict[str, Any], faults: Sequence[Fault]
) -> bytes:
    import pyarrow.parquet as pq

    values = {
        "digest": index.digest,
        "statistics": statistics,
        "faults": [vars(fault) for fault in faults],
    }
    sink = io.BytesIO()
    table = table.replace_schema_metadata({"record": to_json(values)})
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_record(tar: Path) -> Record | None:
    """The record of a committed shard; None when the shard is not there whole."""
    index = committed(tar)
    return None if index is None else load_record(tar, index)


def load_record(tar: Path, index: ShardIndex) -> Record | None:
    """The record that belongs to this index; None when there is none or it is another one's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(tar.with_suffix(RECORD_SUFFIX), memory_map=True)
        values = json.loads((table.schema.metadata or {})[b"record"])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    if values.get("digest") != index.digest:
        return None
    faults = [Fault(**fault) for fault in values["faults"]]
    return Record(values["statistics"], faults, table.replace_schema_metadata(None))


def require_record(tar: Path, index: ShardIndex) -> Record:
    """The record of a shard that must have one. Raises ShardError."""
    record = load_record(tar, index)
    if record is None:
        raise ShardError(
            f"{tar.with_suffix(RECORD_SUFFIX)}: missing or of another shard; remove {tar.name} and "
            "run the same build again: it makes the shard anew"
        )
    return record


def _columns(index: ShardIndex, metas: Sequence[SampleMeta], cell_deg: float) -> "dict[str, Any]":
    import pyarrow as pa

    text, pairs = pa.string(), pa.map_(pa.string(), pa.string())
    lon = np.array([np.nan if m.lon is None else m.lon for m in metas], np.float64)
    lat = np.array([np.nan if m.lat is None else m.lat for m in metas], np.float64)
    return {
        "key": pa.array(list(index.keys), text),
        "lon": pa.array(lon, pa.float64(), from_pandas=True),
        "lat": pa.array(lat, pa.float64(), from_pandas=True),
        "crs": pa.array([m.crs for m in metas], text),
        "transform": pa.array([m.transform for m in metas], pa.list_(pa.float64())),
        "times": pa.array([list(m.times.items()) for m in metas], pairs),
        "products": pa.array([list(m.products.items()) for m in metas], pairs),
        "cloud": pa.array([m.cloud for m in metas], pa.float64()),
        "source": pa.array([m.source for m in metas], text),
        "cell": pa.array(_cell_names(lon, lat, cell_deg), text),
        "content": pa.array(_content_digests(index), pa.uint64()),
    }


def _cell_names(lon: np.ndarray, lat: np.ndarray, cell_deg: float) -> list[str | None]:
    placed = np.isfinite(lon) & np.isfinite(lat)
    cells = np.zeros(len(lon), np.int64)
    cells[placed] = grid_cells(lon[placed], lat[placed], cell_deg)
    return [
        f"{cell >> 32}_{cell & 0xFFFFFFFF}" if known else None
        for cell, known in zip(cells.tolist(), placed.tolist(), strict=True)
    ]


def _content_digests(index: ShardIndex) -> list[int]:
    """One digest per sample over those of its parts, the meta data (always last) aside.

    Sorted and without what is missing, so that it does not depend on which parts a data set has.
    """
    digests = np.sort(index.entries["digest"][:, :-1], axis=1)
    return [xxhash.xxh3_64_intdigest(row[row > 0].tobytes()) for row in digests]
