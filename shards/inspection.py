"""What a data set or a sample holds, as plain values for a table or JSON."""

from typing import Any

import numpy as np

from shards.dataset import Dataset
from shards.errors import ShardError
from shards.files import finite
from shards.sample import Part
from shards.stats import valid_pixels

_TEXT_CHARS = 60


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Counts per split, then per modality presence, type and statistics."""
    names = (*dataset.modalities, *dataset.extras)
    shards = dataset.manifest["shards"]
    return {
        "path": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "source": dataset.manifest["source"]["type"],
        "splits": [
            _describe_split(split, [s for s in shards if s["split"] == split])
            for split in dataset.manifest["splits"]
        ],
        "modalities": [_describe_modality(dataset, name) for name in names],
    }


def describe_sample(dataset: Dataset, key: str) -> dict[str, Any]:
    """Where a sample lies and what each of its parts looks like. Raises ShardError for other keys."""
    if key not in dataset.keys:
        raise ShardError(f"{dataset.path} has no sample {key!r}; keys are in samples.parquet")
    i = dataset.keys.index(key)
    split, shard, slot = dataset.location(i)
    names = (*dataset.modalities, *dataset.extras)
    parts = dataset.read(i, names)
    return {
        "key": key,
        "split": split,
        "shard": shard,
        "slot": slot,
        **finite(vars(dataset.meta(i))),
        "parts": [_describe_part(dataset, name, parts.get(name)) for name in names],
    }


def _describe_split(split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "split": split,
        "samples": sum(s["num_samples"] for s in shards),
        "shards": len(shards),
        "mb": round(sum(s["tar_bytes"] for s in shards) / 1e6, 1),
    }


def _describe_modality(dataset: Dataset, name: str) -> dict[str, Any]:
    row = dataset.modalities.get(name)
    present = int(dataset.present(name).sum())
    statistics = dataset.statistics.get(name)
    return {
        "modality": name,
        "kind": row.kind if row else "extra",
        "dtype": row.dtype if row else "",
        "bands": row.num_bands if row else "",
        "present": present,
        "share": round(present / max(dataset.num_samples, 1), 3),
        "mean[0]": f"{statistics.mean[0]:.4g}" if statistics else "",
        "std[0]": f"{statistics.std[0]:.4g}" if statistics else "",
    }


def _describe_part(dataset: Dataset, name: str, part: Part | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "modality": name,
        "shape": "",
        "dtype": "",
        "range": "",
        "valid": "",
    }
    if part is None:
        described["range"] = "missing"
    elif isinstance(part, str):
        described["dtype"] = "text"
        described["range"] = part if len(part) <= _TEXT_CHARS else part[: _TEXT_CHARS - 1] + "…"
    else:
        row = dataset.modalities.get(name)
        valid = valid_pixels(part, row) if row else np.ones(part.shape, bool)
        values = part[valid]
        described["shape"] = " x ".join(map(str, part.shape))
        described["dtype"] = str(part.dtype)
        described["range"] = f"{values.min():g} .. {values.max():g}" if values.size else "no valid"
        described["valid"] = f"{valid.mean():.1%}"
    return described
