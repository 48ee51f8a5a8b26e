"""Which sample goes where, decided before a pixel is read.

    listing -> split (by grid cell) -> order (blocks permuted by seed) -> shard, slot

The plan is a pure function of the source's listing, the seed and the options, so any number of
ranks and restarts fill the same slots with the same bytes.

Splits are made of whole grid cells, so that neighbours never fall on both sides. Cells are laid end
to end in the order of a seeded hash; a cell belongs to the split whose share its middle falls in, so
every share is met to within one cell. A sample without coordinates is a cell of its own. A split with
a share is never left empty while there are enough cells. With `splits: source` the source says.

Samples of one block stay side by side, so that a source decodes each block once (twice where a
shard ends inside it). Shards are then cut every `samples_per_shard` samples of a split.

Everything works on columns: nine million samples are planned in seconds (benchmarks/scale.py).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from configs.schema import ShardsConfig
from shards import claims, splitting
from shards.errors import ShardError
from shards.files import to_json, write_atomic
from shards.manifest import EXTRA, SALVAGE
from shards.mixing import mix_with
from shards.sources.base import SampleRef, refs_of
from shards.tar import check_key

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED_SPLITS = (EXTRA, SALVAGE, claims.FOLDER, splitting.FOLDER)
# The same that `check_key` refuses, said as a pattern for whole columns; what it finds is checked there.
_SUSPICIOUS = r"^$|[^!-~]|[./\\]"


@dataclass(frozen=True)
class PlannedShard:
    """One task of a build: a run of the plan's samples. `num_bytes` is what the source estimates."""

    split: str
    name: str
    start: int
    num_samples: int
    num_bytes: int

    @property
    def path(self) -> str:
        """Relative to the data set, without suffix: `train/shard-000000`."""
        return f"{self.split}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """All samples in manifest order: splits as configured, then shard and slot.

    `table` is the listing in that order, `counts` the samples per split.
    """

    table: "pa.Table"
    counts: dict[str, int]
    samples_per_shard: int

    @property
    def num_samples(self) -> int:
        return self.table.num_rows

    @property
    def shards(self) -> list[PlannedShard]:
        """All shards in manifest order: splits as configured, then shards by number."""
        ends = np.concatenate([[0], np.cumsum(self.table.column("num_bytes").to_numpy())])
        return [
            PlannedShard(split, name, start, stop - start, int(ends[stop] - ends[start]))
            for split, name, start, stop in shard_runs(self.counts, self.samples_per_shard)
        ]

    def refs(self, shard: PlannedShard) -> list[SampleRef]:
        """The samples of a shard in slot order."""
        return refs_of(self.table.slice(shard.start, shard.num_samples))

    @property
    def digest(self) -> str:
        """Hex digest of every assignment."""
        state = xxhash.xxh3_128(to_json([list(self.counts.items()), self.samples_per_shard]))
        state.update(self.table.column("block").to_numpy().tobytes())
        state.update(self.table.column("row").to_numpy().tobytes())
        keys = self.table.column("key")
        # Lengths, then characters, however the column is cut into chunks.
        state.update(_compute().binary_length(keys).to_numpy().tobytes())
        for chunk in keys.chunks:
            state.update(_characters(chunk))
        return state.hexdigest()


def shard_runs(
    counts: Mapping[str, int], samples_per_shard: int
) -> Iterator[tuple[str, str, int, int]]:
    """(split, name, first sample, one past the last) of every shard, in manifest order.

    `counts` are the samples per split.
    """
    begin = 0
    for split, count in counts.items():
        for number, start in enumerate(range(begin, begin + count, samples_per_shard)):
            yield split, f"shard-{number:06d}", start, min(start + samples_per_shard, begin + count)
        begin += count


def plan(listing: "pa.Table", config: ShardsConfig) -> Plan:
    """Assign every sample a split, a shard and a slot.

    Raises ShardError for no samples at all, a key that is not usable or comes twice, or a split
    name that cannot be a folder.
    """
    _check_keys(listing)
    splits, split_of = split_samples(listing, config)
    for split in splits:
        if not split.isidentifier() or split in RESERVED_SPLITS:
            raise ShardError(
                f"{split!r} cannot name a split: letters, digits and underscores, and none of "
                f"{', '.join(RESERVED_SPLITS)}, which are folders of a data set"
            )
    blocks = mix_with(listing.column("block").to_numpy(), config.seed)
    order = np.argsort(blocks, kind="stable")
    order = order[np.argsort(split_of[order], kind="stable")]
    counts = np.bincount(split_of, minlength=len(splits)).tolist()
    table = listing.take(order)
    if "split" in table.column_names:
        table = table.drop_columns(["split"])
    return Plan(table, dict(zip(splits, counts, strict=True)), config.samples_per_shard)


def grid_cells(lon: np.ndarray, lat: np.ndarray, cell_deg: float) -> np.ndarray:
    """The cell each place lies in, int64 [N]: column << 32 | row. 180 degrees east is 180 west."""
    column = np.floor_divide((lon + 180) % 360, cell_deg).astype(np.int64)
    return column << 32 | np.floor_divide(lat + 90, cell_deg).astype(np.int64)


def split_samples(listing: "pa.Table", config: ShardsConfig) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the splits and the split of every sample: (names, int64 [N] into them).

    Raises ShardError when the source's own splits are asked for and it has none.
    """
    if config.splits == "source":
        if "split" not in listing.column_names:
            raise ShardError("splits: source, but this source has no splits; write shares")
        encoded = listing.column("split").combine_chunks().dictionary_encode()
        names = tuple(encoded.dictionary.to_pylist())
        return names, encoded.indices.to_numpy().astype(np.int64)
    return tuple(config.splits), assign_splits(
        listing, config.splits, config.split_cell_deg, config.seed
    )


def assign_splits(
    listing: "pa.Table", splits: Mapping[str, float], cell_deg: float, seed: int
) -> np.ndarray:
    """Splits of whole grid cells with the given shares: positions in `splits`, int64 [N].

    `listing` needs the columns key, lon and lat.
    """
    shares = np.array(list(splits.values()))
    ranks = _cell_ranks(listing, cell_deg, seed)
    _, cell_of, sizes = np.unique(ranks, return_inverse=True, return_counts=True)
    middles = (np.cumsum(sizes) - sizes / 2) / len(ranks)
    last = int(np.flatnonzero(shares)[-1])
    # The last bound is 1 but for rounding, which must not open a split without a share.
    split_of_cell = np.minimum(np.searchsorted(np.cumsum(shares), middles, side="right"), last)
    _fill_empty(split_of_cell, sizes, shares)
    return split_of_cell[cell_of]


def _cell_ranks(listing: "pa.Table", cell_deg: float, seed: int) -> np.ndarray:
    """A pseudo-random number per sample, the same within a grid cell: uint64 [N]."""
    lon = listing.column("lon").to_numpy()
    lat = listing.column("lat").to_numpy()
    placed = np.isfinite(lon) & np.isfinite(lat)
    ranks = np.empty(len(lon), np.uint64)
    ranks[placed] = mix_with(grid_cells(lon[placed], lat[placed], cell_deg), seed)
    lonely = np.flatnonzero(~placed)
    if len(lonely):
        keys = listing.column("key").take(lonely).to_pylist()
        ranks[lonely] = [xxhash.xxh3_64_intdigest(key.encode(), seed) for key in keys]
    return ranks


def _fill_empty(split_of_cell: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> None:
    """Give each empty split with a share the smallest cell of the split that has most cells."""
    for s in np.flatnonzero(shares > 0):
        counts = np.bincount(split_of_cell, minlength=len(shares))
        donor = int(np.argmax(counts))
        if counts[s] == 0 and counts[donor] > 1:
            theirs = np.flatnonzero(split_of_cell == donor)
            split_of_cell[theirs[np.argmin(sizes[theirs])]] = s


def _check_keys(listing: "pa.Table") -> None:
    pc = _compute()

    if not listing.num_rows:
        raise ShardError("the source lists no samples; check its path and its modalities")
    keys = listing.column("key")
    for key in keys.filter(pc.match_substring_regex(keys, _SUSPICIOUS)).to_pylist():
        check_key(key)
    if pc.count_distinct(keys).as_py() < len(keys):
        counts = pc.value_counts(keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ShardError(f"the source lists the key {twice!r} twice; keys must be unique")


def _compute() -> Any:
    # Untyped on purpose: pyarrow makes these functions when it is imported.
    import pyarrow.compute

    return pyarrow.compute


def _characters(array: Any) -> memoryview | bytes:
    """The characters of a large_string array, whatever it was sliced from."""
    _, ends, text = array.buffers()
    offsets = np.frombuffer(ends, np.int64)[array.offset :][: len(array) + 1]
    return memoryview(text)[int(offsets[0]) : int(offsets[-1])] if text else b""


def save_plan(plan: Plan, path: Path, recipe: dict[str, Any]) -> None:
    """Write the plan as parquet; `recipe`, what it was made from, goes into the file's meta data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = {"counts": list(plan.counts.items()), "samples_per_shard": plan.samples_per_shard}
    table = plan.table.replace_schema_metadata(
        {"recipe": to_json(recipe), "digest": plan.digest, "layout": to_json(layout)}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    write_atomic(path, sink.getvalue().to_pybytes())


def load_plan(path: Path) -> tuple[Plan, dict[str, Any]]:
    """Read what `save_plan` wrote: the plan and its recipe. Raises ShardError when damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        recipe, digest = json.loads(metadata[b"recipe"]), metadata[b"digest"].decode()
        layout = json.loads(metadata[b"layout"])
        loaded = Plan(
            table.replace_schema_metadata(None), dict(layout["counts"]), layout["samples_per_shard"]
        )
        wrong = loaded.digest != digest
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise ShardError(
            f"{path}: not a plan: {error}; remove the file and run the build again"
        ) from error
    if wrong:
        raise ShardError(f"{path}: its digest does not fit; remove it and run the build again")
    return loaded, recipe
