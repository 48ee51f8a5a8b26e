"""The end of a build: many committed shards become one data set.

    quarantine.jsonl, index.bin, samples.parquet, and last manifest.json, each written atomically

Everything is gathered from the shards' indices and records in manifest order, so the files do not
depend on who wrote which shard or how often the build was stopped.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import ShardsConfig
from configs.schema.modality import Modality
from shards.errors import ShardError
from shards.files import finite, to_json, write_atomic
from shards.index import ShardIndex, concatenate, index_path, read_index
from shards.manifest import (
    INDEX,
    MANIFEST,
    SAMPLES,
    content_fingerprint,
    read_manifest,
    write_manifest,
)
from shards.plan import Plan, PlannedShard
from shards.stats import Statistics

QUARANTINE = "quarantine.jsonl"
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


def finish(
    config: ShardsConfig,
    plan: Plan,
    recipe: dict[str, Any],
    rows: dict[str, Modality],
    parts: Sequence[str],
) -> None:
    """Write the data set's own files. Raises ShardError when a shard's files contradict each other."""
    out = config.out
    indices: list[ShardIndex] = []
    records: list[dict[str, Any]] = []
    for shard in plan.shards:
        tar = out / f"{shard.path}.tar"
        indices.append(read_index(index_path(tar)))
        records.append(json.loads(tar.with_suffix(".json").read_bytes()))
    index = concatenate(indices)
    if index.parts != tuple(parts):
        raise ShardError(f"{out}: the shards hold other parts than {', '.join(parts)}")
    write_quarantine(out, [bad for record in records for bad in record["quarantined"]])
    write_atomic(out / INDEX, index.to_bytes())
    write_atomic(out / SAMPLES, _samples_table(plan.shards, indices, records))
    shards = [
        {
            "split": shard.split,
            "name": shard.name,
            "num_samples": found.num_samples,
            "tar_bytes": found.tar_bytes,
            "digest": found.digest,
        }
        for shard, found in zip(plan.shards, indices, strict=True)
    ]
    statistics = _statistics(plan.shards, records, rows)
    modalities = finite([row.model_dump(mode="json") for row in rows.values()])
    write_manifest(
        out / MANIFEST,
        {
            "fingerprint": content_fingerprint(rows.values(), shards),
            "num_samples": index.num_samples,
            "num_quarantined": sum(len(record["quarantined"]) for record in records),
            "splits": list(config.splits),
            "statistics": statistics.bands(),
            "class_counts": statistics.classes(),
            "shards": shards,
            "index_digest": index.digest,
            "plan": plan.digest,
            "recipe": {k: v for k, v in recipe.items() if k != "modalities"},
            "source": config.source.model_dump(mode="json"),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "modalities": modalities,
        },
    )


def write_quarantine(out: Path, bad: list[dict[str, str]]) -> None:
    """One line per unusable sample, `{"key":..., "reason":...}`; no file when there is none."""
    path = out / QUARANTINE
    if bad:
        write_atomic(path, b"".join(to_json(entry) + b"\n" for entry in bad))
    else:
        path.unlink(missing_ok=True)


def _statistics(
    shards: Sequence[PlannedShard], records: Sequence[dict[str, Any]], rows: dict[str, Modality]
) -> Statistics:
    """Over the train split: held-out pixels must not leak into normalisation."""
    train = [r for s, r in zip(shards, records, strict=True) if s.split == "train"]
    merged = Statistics(rows)
    merged.merge(record["statistics"] for record in train or records)
    return merged


def _samples_table(
    shards: Sequence[PlannedShard],
    indices: Sequence[ShardIndex],
    records: Sequence[dict[str, Any]],
) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (shard, slot, index.keys[slot], int(index.records["present"][slot]), meta)
        for shard, index, record in zip(shards, indices, records, strict=True)
        for slot, meta in enumerate(record["samples"])
    ]
    metas = [meta for *_, meta in rows]
    table = pa.table(
        {
            "key": pa.array([key for _, _, key, *_ in rows], pa.string()),
            "split": pa.array([shard.split for shard, *_ in rows], pa.string()),
            "shard": pa.array([shard.name for shard, *_ in rows], pa.string()),
            "slot": pa.array([slot for _, slot, *_ in rows], pa.int32()),
            "present": pa.array([present for *_, present, _ in rows], pa.uint32()),
            "lon": pa.array([m["lon"] for m in metas], pa.float64()),
            "lat": pa.array([m["lat"] for m in metas], pa.float64()),
            "crs": pa.array([m["crs"] for m in metas], pa.string()),
            "times": pa.array(
                [list(m["times"].items()) for m in metas], pa.map_(pa.string(), pa.string())
            ),
            "source": pa.array([m["source"] for m in metas], pa.string()),
        },
        metadata={"parts": json.dumps(indices[0].parts)},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=65536)
    return sink.getvalue().to_pybytes()
