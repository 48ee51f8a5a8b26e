"""The manifest: one JSON file that makes a folder of shards a data set.

    OUT/manifest.json                          the data set exists when this file does
    OUT/index.bin                              all shards' records, mapped by readers
    OUT/samples.parquet, OUT/plan.parquet      one row per sample: as stored, as planned
    OUT/quarantine.jsonl                       what was left out and why, where something was
    OUT/<split>/shard-000000.{tar,idx,parquet} samples, where they lie, what was learned meanwhile
    OUT/splits/<name>.{json,bin}               splits made later
    OUT/extra/<name>/{info.json,manifest.json,index.bin,<split>/shard-000000.{tar,idx,json}}    added
                                               modalities and what was derived, such as tokens
    OUT/claims/, OUT/salvage/                  while an array of tasks builds; while a salvage goes on

Its last key, `digest`, covers all others, so a damaged or hand-edited manifest is told from a
whole one.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash
from pydantic import ValidationError

from configs.schema.modality import Modality
from shards.errors import ShardError
from shards.files import finite, to_json, write_atomic

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.bin"
SAMPLES = "samples.parquet"
PLAN = "plan.parquet"
EXTRA = "extra"
SALVAGE = "salvage"


def write_manifest(path: Path, values: Mapping[str, Any]) -> None:
    """Commit a manifest, readable by people, sealed by its digest."""
    body = finite({"schema": SCHEMA_VERSION, **values})
    sealed = {**body, "digest": _digest(body)}
    write_atomic(path, json.dumps(sealed, indent=1, ensure_ascii=False).encode() + b"\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest. Raises ShardError when it is missing, damaged or of another version."""
    try:
        values = json.loads(path.read_bytes())
        digest = values.pop("digest")
    except FileNotFoundError as error:
        raise ShardError(
            f"{path}: no manifest, so this is not a finished data set; run `python -m shards "
            "build` with its configuration to make or finish it"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ShardError(f"{path}: damaged manifest: {error}; {_REMAKE}") from error
    if values.get("schema") != SCHEMA_VERSION:
        raise ShardError(
            f"{path}: format version {values.get('schema')}; this software reads {SCHEMA_VERSION}"
        )
    if digest != _digest(values):
        raise ShardError(f"{path}: its digest does not fit its content; {_REMAKE}")
    return values


def modalities_of(manifest: Mapping[str, Any]) -> dict[str, Modality]:
    """The registry rows the data set was made with, in registry order. Raises ShardError."""
    try:
        rows = [Modality.model_validate(row) for row in manifest["modalities"]]
    except (ValidationError, KeyError) as error:
        raise ShardError(f"the manifest's modalities do not fit this software: {error}") from error
    return {row.name: row for row in rows}


def content_fingerprint(modalities: Iterable[Modality], shards: Iterable[Mapping[str, Any]]) -> str:
    """Hex digest over what decides a sample's values: registry rows and the shards' digests."""
    rows = [finite(row.content()) for row in modalities]
    listed = [[s["split"], s["name"], s["num_samples"], s["digest"]] for s in shards]
    return xxhash.xxh3_128_hexdigest(to_json([SCHEMA_VERSION, rows, listed]))


_REMAKE = "remove it and run the same build again: finished shards are kept"


def _digest(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(to_json(dict(body)))
