"""How far a data set's build is, told by the folder alone: nothing is asked of those who build it."""

import json
import time
from pathlib import Path
from typing import Any

from shards.claims import live_claims
from shards.errors import ShardError
from shards.finish import QUARANTINE
from shards.manifest import MANIFEST, PLAN, read_manifest
from shards.plan import shard_runs

_WINDOW_S = 600.0


def build_status(out: Path) -> dict[str, Any]:
    """State, counts, rate over the last ten minutes and time left, as JSON values.

    `state` is `whole` (the manifest is there), `building` (a shard was written or a claim touched in
    the last ten minutes) or `stopped`. Raises ShardError when there is no plan.
    """
    counts, per_shard = _plan_layout(out / PLAN)
    done, recent, num_bytes, num_shards, now = 0, 0, 0, 0, time.time()
    for split, name, start, stop in shard_runs(counts, per_shard):
        num_shards += 1
        try:
            told = (out / split / f"{name}.tar").stat()
        except FileNotFoundError:
            continue
        done += stop - start
        num_bytes += told.st_size
        if now - told.st_mtime < _WINDOW_S:
            recent += stop - start
    total = sum(counts.values())
    # From the plan on where that is younger than the window: before it nothing was built.
    span_s = min(_WINDOW_S, max(now - (out / PLAN).stat().st_mtime, 1.0))
    rate = recent / span_s
    claims = live_claims(out)
    alive = recent or any(float(str(c["age_s"])) < _WINDOW_S for c in claims)
    whole = (out / MANIFEST).is_file()
    return {
        "path": str(out),
        "state": "whole" if whole else "building" if alive else "stopped",
        "samples": total,
        "samples_done": read_manifest(out / MANIFEST)["num_samples"] if whole else done,
        "share": round(1.0 if whole else done / max(total, 1), 4),
        "shards": num_shards,
        "mb": round(num_bytes / 1e6, 1),
        "samples_per_s": round(rate, 2),
        "left_s": None if whole or not rate else round((total - done) / rate),
        "quarantined": _lines(out / QUARANTINE),
        "claims": claims,
    }


def _plan_layout(path: Path) -> tuple[dict[str, int], int]:
    """Samples per split and per shard, from the plan's meta data alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        layout = json.loads(pq.read_metadata(path).metadata[b"layout"])
    except FileNotFoundError as error:
        raise ShardError(
            f"{path}: no plan, so no build was begun here; run `python -m shards build`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ShardError(f"{path}: not a plan: {error}; remove it and build again") from error
    return dict(layout["counts"]), layout["samples_per_shard"]


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.is_file() else 0
