"""The end of a build: many committed shards become one data set.

    quarantine.jsonl, index.bin, samples.parquet, and last manifest.json, each written atomically

Everything is gathered from the shards' indices and records in manifest order, so the files do not
depend on who wrote which shard or how often the build was stopped. Shards pass one by one: memory does
not grow with their number.
"""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from configs.schema.modality import Modality
from shards.codec import stored_parts
from shards.errors import ShardError
from shards.files import atomic_path, finite, to_json, write_atomic
from shards.index import ShardIndex, index_path, read_index, write_joined
from shards.manifest import (
    INDEX,
    MANIFEST,
    SAMPLES,
    content_fingerprint,
    modalities_of,
    read_manifest,
    write_manifest,
)
from shards.plan import PlannedShard
from shards.record import Fault, Record, require_record
from shards.stats import Statistics

QUARANTINE = "quarantine.jsonl"
_ROW_GROUP = 65536
_LIBRARIES = ("numpy", "blosc2", "xxhash", "pyarrow")


def is_whole(out: Path) -> bool:
    """Whether the data set is finished and all its files are there in their sizes.

    A question of a second: file sizes only, no digests of samples (`shards verify` asks those).
    """
    try:
        manifest = read_manifest(out / MANIFEST)
        index = read_index(out / INDEX)
    except ShardError:
        return False
    tars = {out / s["split"] / f"{s['name']}.tar": s["tar_bytes"] for s in manifest["shards"]}
    return (
        index.digest == manifest["index_digest"]
        and (out / SAMPLES).is_file()
        and all(tar.is_file() and tar.stat().st_size == size for tar, size in tars.items())
        and all(tar.with_suffix(".idx").is_file() for tar in tars)
    )


@dataclass(frozen=True)
class Origin:
    """What a data set was made from, for its manifest: the plan's digest, the recipe, the source."""

    plan: str
    recipe: dict[str, Any]
    source: dict[str, Any]


def finish(
    out: Path,
    shards: Sequence[PlannedShard],
    splits: Sequence[str],
    rows: dict[str, Modality],
    parts: Sequence[str],
    origin: Origin,
) -> None:
    """Write the data set's own files. Raises ShardError when a shard's files contradict each other."""
    tars = [out / f"{shard.path}.tar" for shard in shards]
    indices = [read_index(index_path(tar)) for tar in tars]
    if indices[0].parts != tuple(parts):
        raise ShardError(f"{out}: the shards hold other parts than {', '.join(parts)}")
    gathered = _Gathered(rows)
    with atomic_path(out / SAMPLES) as temporary:
        gathered.write_samples(temporary, shards, tars, indices)
    write_quarantine(out, gathered.faults)
    index_digest = write_joined(out / INDEX, indices)
    listed = [
        {
            "split": shard.split,
            "name": shard.name,
            "num_samples": found.num_samples,
            "tar_bytes": found.tar_bytes,
            "digest": found.digest,
        }
        for shard, found in zip(shards, indices, strict=True)
    ]
    modalities = finite([row.model_dump(mode="json") for row in rows.values()])
    write_manifest(
        out / MANIFEST,
        {
            "fingerprint": content_fingerprint(rows.values(), listed),
            "num_samples": sum(index.num_samples for index in indices),
            "num_quarantined": len(gathered.faults),
            "splits": list(splits),
            "statistics": gathered.statistics.bands(),
            "class_counts": gathered.statistics.classes(),
            "shards": listed,
            "index_digest": index_digest,
            "plan": origin.plan,
            "recipe": {k: v for k, v in origin.recipe.items() if k != "modalities"},
            "source": origin.source,
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "modalities": modalities,
        },
    )


def finish_again(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the data set's own files anew, as `manifest` says that they were made.

    Raises ShardError when a shard's files are damaged or contradict each other.
    """
    rows = modalities_of(manifest)
    shards = [
        PlannedShard(s["split"], s["name"], start, s["num_samples"], 0)
        for s, start in zip(
            manifest["shards"],
            accumulate((s["num_samples"] for s in manifest["shards"]), initial=0),
            strict=False,
        )
    ]
    origin = Origin(manifest["plan"], manifest["recipe"], manifest["source"])
    finish(out, shards, manifest["splits"], rows, stored_parts(rows), origin)


def write_quarantine(out: Path, bad: Sequence[Fault]) -> None:
    """One line per sample or part left out, `{"key", "part", "reason"}`; no file when there is none."""
    path = out / QUARANTINE
    if bad:
        write_atomic(path, b"".join(to_json(vars(fault)) + b"\n" for fault in bad))
    else:
        path.unlink(missing_ok=True)


class _Gathered:
    """What the shards' records add up to, read shard by shard."""

    def __init__(self, rows: dict[str, Modality]) -> None:
        self._train, self._all = Statistics(rows), Statistics(rows)
        self._has_train = False
        self.faults: list[Fault] = []

    @property
    def statistics(self) -> Statistics:
        """Over the train split: held-out pixels must not leak into normalisation."""
        return self._train if self._has_train else self._all

    def write_samples(
        self,
        path: Path,
        shards: Sequence[PlannedShard],
        tars: Sequence[Path],
        indices: Sequence[ShardIndex],
    ) -> None:
        """One row per sample, in manifest order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        writer = None
        buffered: list[Any] = []
        for shard, tar, index in zip(shards, tars, indices, strict=True):
            record = require_record(tar, index)
            self._count(shard.split, record)
            buffered.append(_sample_rows(shard, index, record.rows))
            if sum(map(len, buffered)) >= _ROW_GROUP or shard is shards[-1]:
                table = pa.concat_tables(buffered).combine_chunks()
                buffered = []
                if writer is None:
                    schema = table.schema.with_metadata({"parts": json.dumps(index.parts)})
                    writer = pq.ParquetWriter(path, schema, compression="zstd")
                writer.write_table(table)
        assert writer is not None
        writer.close()

    def _count(self, split: str, record: Record) -> None:
        self.faults += record.faults
        self._all.merge([record.statistics])
        if split == "train":
            self._has_train = True
            self._train.merge([record.statistics])


def _sample_rows(shard: PlannedShard, index: ShardIndex, rows: Any) -> Any:
    import pyarrow as pa

    num = len(rows)
    place = {
        "split": pa.array([shard.split] * num, pa.string()),
        "shard": pa.array([shard.name] * num, pa.string()),
        "slot": pa.array(range(num), pa.int32()),
        "present": pa.array(index.present, pa.uint32()),
    }
    for position, (name, column) in enumerate(place.items(), start=1):
        rows = rows.add_column(position, name, column)
    return rows
