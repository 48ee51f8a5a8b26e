"""Which sample goes where, decided before a pixel is read.

    listing -> split (by grid cell) -> order (blocks permuted by seed) -> shard, slot

The plan is a pure function of the source's listing, the seed and the options, so any number of
ranks and restarts fill the same slots with the same bytes.

Splits are made of whole grid cells, so that neighbours never fall on both sides. Cells are walked
in the order of a seeded hash, and each goes to the split that lacks most samples: every share is
met to within one cell (of the largest) per other split. A sample without coordinates is a cell of
its own. A split with a share is never left empty while there are enough cells.

Samples of one block stay side by side, so that a source decodes each block once (twice where a
shard ends inside it). Shards are then cut every `samples_per_shard` samples of a split.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from configs.schema import ShardsConfig
from shards.errors import ShardError
from shards.files import to_json, write_atomic
from shards.sources.base import SampleRef
from shards.tar import check_key

RESERVED_SPLITS = ("extra",)


@dataclass(frozen=True)
class PlannedShard:
    """One task of a build: the samples of one shard, in slot order."""

    split: str
    name: str
    refs: tuple[SampleRef, ...]

    @property
    def path(self) -> str:
        """Relative to the data set, without suffix: `train/shard-000000`."""
        return f"{self.split}/{self.name}"

    @property
    def num_bytes(self) -> int:
        return sum(ref.num_bytes for ref in self.refs)


@dataclass(frozen=True)
class Plan:
    """All shards in manifest order: splits as configured, then shards by number."""

    shards: tuple[PlannedShard, ...]

    @property
    def num_samples(self) -> int:
        return sum(len(shard.refs) for shard in self.shards)

    @property
    def digest(self) -> str:
        """Hex digest of every assignment."""
        state = xxhash.xxh3_128()
        for shard in self.shards:
            state.update(to_json([shard.path, [(r.key, r.block) for r in shard.refs]]))
        return state.hexdigest()


def plan(refs: Sequence[SampleRef], config: ShardsConfig) -> Plan:
    """Assign every sample a split, a shard and a slot.

    Raises ShardError for no samples at all, a key that is not usable or comes twice, or a split
    name that cannot be a folder.
    """
    _check(refs, config)
    splits = list(config.splits)
    split_of = split_samples(refs, config)
    order = _order(refs, config.seed)
    shards = []
    for s, split in enumerate(splits):
        members = [refs[i] for i in order if split_of[i] == s]
        for number, start in enumerate(range(0, len(members), config.samples_per_shard)):
            chosen = tuple(members[start : start + config.samples_per_shard])
            shards.append(PlannedShard(split, f"shard-{number:06d}", chosen))
    return Plan(tuple(shards))


def grid_cell(lon: float, lat: float, cell_deg: float) -> tuple[int, int]:
    """Column and row of the cell a place lies in; 180 degrees east is 180 degrees west."""
    return int(((lon + 180) % 360) // cell_deg), int((lat + 90) // cell_deg)


def split_samples(refs: Sequence[SampleRef], config: ShardsConfig) -> np.ndarray:
    """The split of every sample, as positions in `config.splits`: int64 [N]."""
    cells: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        if ref.lon is None or ref.lat is None:
            cell = f"key:{ref.key}"
        else:
            cell = "cell:{}:{}".format(*grid_cell(ref.lon, ref.lat, config.split_cell_deg))
        cells.setdefault(cell, []).append(i)
    walk = sorted(cells, key=lambda c: (xxhash.xxh3_64_intdigest(c.encode(), config.seed), c))
    shares = np.array(list(config.splits.values()))
    lacking = shares * len(refs)
    # A split without a share must not catch a cell when rounding leaves all others at zero.
    lacking[shares == 0] = -np.inf
    assigned: list[list[str]] = [[] for _ in shares]
    for cell in walk:
        s = int(np.argmax(lacking))
        assigned[s].append(cell)
        lacking[s] -= len(cells[cell])
    _fill_empty(assigned, shares, cells)
    split_of = np.empty(len(refs), np.int64)
    for s, names in enumerate(assigned):
        for cell in names:
            split_of[cells[cell]] = s
    return split_of


def _fill_empty(assigned: list[list[str]], shares: np.ndarray, cells: dict[str, list[int]]) -> None:
    """Give each empty split with a share the smallest cell of the split that has most cells."""
    for s, share in enumerate(shares):
        donor = max(range(len(assigned)), key=lambda d: len(assigned[d]))
        if share > 0 and not assigned[s] and len(assigned[donor]) > 1:
            smallest = min(assigned[donor], key=lambda c: len(cells[c]))
            assigned[donor].remove(smallest)
            assigned[s].append(smallest)


def _order(refs: Sequence[SampleRef], seed: int) -> list[int]:
    """Positions of all samples: blocks by seeded hash, samples of a block as the source lists them."""
    rank = {
        block: xxhash.xxh3_64_intdigest(str(block).encode(), seed)
        for block in {ref.block for ref in refs}
    }
    return sorted(range(len(refs)), key=lambda i: (rank[refs[i].block], refs[i].block, i))


def _check(refs: Sequence[SampleRef], config: ShardsConfig) -> None:
    if not refs:
        raise ShardError("the source lists no samples; check its path and its modalities")
    for split in config.splits:
        if not split.isidentifier() or split in RESERVED_SPLITS:
            raise ShardError(f"{split!r} cannot name a split: it becomes a folder beside `extra`")
    seen: set[str] = set()
    for ref in refs:
        check_key(ref.key)
        if ref.key in seen:
            raise ShardError(f"the source lists the key {ref.key!r} twice; keys must be unique")
        seen.add(ref.key)


def save_plan(plan: Plan, path: Path, recipe: dict[str, Any]) -> None:
    """Write the plan as parquet; `recipe`, what it was made from, goes into the file's meta data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(s, number, ref) for s in plan.shards for number, ref in enumerate(s.refs)]
    table = pa.table(
        {
            "key": pa.array([r.key for *_, r in rows], pa.string()),
            "split": pa.array([s.split for s, *_ in rows], pa.string()),
            "shard": pa.array([s.name for s, *_ in rows], pa.string()),
            "slot": pa.array([slot for _, slot, _ in rows], pa.int32()),
            "block": pa.array([r.block for *_, r in rows], pa.int64()),
            "lon": pa.array([r.lon for *_, r in rows], pa.float64()),
            "lat": pa.array([r.lat for *_, r in rows], pa.float64()),
            "num_bytes": pa.array([r.num_bytes for *_, r in rows], pa.int64()),
        },
        metadata={"recipe": to_json(recipe), "digest": plan.digest.encode()},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def load_plan(path: Path) -> tuple[Plan, dict[str, Any]]:
    """Read what `save_plan` wrote: the plan and its recipe. Raises ShardError when damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        recipe, digest = json.loads(metadata[b"recipe"]), metadata[b"digest"].decode()
        shards: dict[tuple[str, str], list[SampleRef]] = {}
        for row in table.to_pylist():
            ref = SampleRef(row["key"], row["block"], row["lon"], row["lat"], row["num_bytes"])
            shards.setdefault((row["split"], row["shard"]), []).append(ref)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise ShardError(
            f"{path}: not a plan: {error}; remove the file and run the build again"
        ) from error
    loaded = Plan(tuple(PlannedShard(s, n, tuple(refs)) for (s, n), refs in shards.items()))
    if loaded.digest != digest:
        raise ShardError(f"{path}: its digest does not fit; remove it and run the build again")
    return loaded, recipe
