"""Several data sets as one folder: their shards linked side by side under new numbers.

Tars are not rewritten: they are hard links where the file system allows it, else copies. Each shard
gets an index over the union of all modalities, in which what its data set lacks is missing. Splits
keep their names; a grid cell that lies in two splits after the merge is refused unless it is allowed.
What was added to a data set after its build (modalities, tokens) is not taken along: such data sets
are refused unless that is wanted.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.modality import Modality
from shards import finish
from shards.build import hold_alone
from shards.codec import stored_parts
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.files import link_or_copy, write_atomic
from shards.filters import samples_columns
from shards.index import ENTRY, MAX_PARTS, ShardIndex, index_path, make_index, read_index
from shards.manifest import MANIFEST, PLAN, read_manifest
from shards.mixed import union
from shards.plan import PlannedShard
from shards.record import require_record, rewrite_record
from shards.writer import RECORD_SUFFIX


def merge(
    out: Path,
    sources: Sequence[Path],
    *,
    allow_leakage: bool = False,
    without_added: bool = False,
) -> dict[str, Any]:
    """Make `out` of the data sets; returns its manifest. Stopped, the same command goes on.

    `without_added` leaves behind what was added to them after their build, `allow_leakage` lets a
    grid cell get into two splits. Raises ShardError where that happens and is not allowed, for
    contradicting modalities, keys that come twice, or a folder that holds something else.
    """
    members = [open_dataset(path) for path in sources]
    rows = union([(member.path, member.own_modalities) for member in members])
    parts = stored_parts(rows)
    if len(parts) > MAX_PARTS:
        raise ShardError(f"{len(parts)} parts in a sample; an index holds {MAX_PARTS}: merge fewer")
    if not without_added:
        _check_added(members)
    _check_keys(members)
    recipe = {
        "merged": [member.fingerprint for member in members],
        "split_cell_deg": _cell_deg(members),
    }
    if not allow_leakage:
        _check_cells(members)
    with hold_alone(out):
        if (out / PLAN).exists():
            raise ShardError(f"{out} holds a build of its own; choose another folder")
        if (out / MANIFEST).exists():
            manifest = read_manifest(out / MANIFEST)
            if manifest["recipe"] != recipe:
                raise ShardError(f"{out} holds another data set; choose another folder")
            return manifest
        _write(out, members, rows, parts, recipe)
    return read_manifest(out / MANIFEST)


def _write(
    out: Path,
    members: Sequence[Dataset],
    rows: dict[str, Modality],
    parts: Sequence[str],
    recipe: dict[str, Any],
) -> None:
    splits = list(dict.fromkeys(s for m in members for s in m.manifest["splits"]))
    shards: list[PlannedShard] = []
    start = 0
    for split in splits:
        number = 0
        for member in members:
            for own in (s for s in member.manifest["shards"] if s["split"] == split):
                shard = PlannedShard(split, f"shard-{number:06d}", start, own["num_samples"], 0)
                _adopt(member.path / split / own["name"], out / shard.path, parts, rows)
                shards.append(shard)
                start += own["num_samples"]
                number += 1
    source = {"type": "merge", "paths": [str(member.path) for member in members]}
    finish.finish(out, shards, splits, rows, parts, finish.Origin("", recipe, source))


def _adopt(old: Path, new: Path, parts: Sequence[str], rows: dict[str, Modality]) -> None:
    """Link one shard; its index and record are made to fit the union of parts."""
    tar, target = old.with_suffix(".tar"), new.with_suffix(".tar")
    own = read_index(index_path(tar))
    index = _widened(own, parts)
    record = rewrite_record(require_record(tar, own), index, rows)
    write_atomic(target.with_suffix(RECORD_SUFFIX), record)
    write_atomic(index_path(target), index.to_bytes())
    link_or_copy(tar, target)


def _widened(index: ShardIndex, parts: Sequence[str]) -> ShardIndex:
    """The same samples with columns for all parts of the union."""
    present = np.zeros(index.num_samples, np.uint32)
    entries = np.zeros((index.num_samples, len(parts)), ENTRY)
    for p, part in enumerate(index.parts):
        if part not in parts:
            raise ShardError(
                f"{part} is stored in another way than the other data sets store it; build the "
                "data sets with the same registry before merging them"
            )
        column = parts.index(part)
        present |= (index.present >> np.uint32(p) & np.uint32(1)) << np.uint32(column)
        entries[:, column] = index.entries[:, p]
    return make_index(parts, index.tar_bytes, present, entries, index.keys)


def _check_added(members: Sequence[Dataset]) -> None:
    for member in members:
        added = [*(member.modalities.keys() - member.own_modalities.keys()), *member.extras]
        if added:
            raise ShardError(
                f"{member.path} has had {', '.join(sorted(added))} added since it was built, which a "
                "merge does not take along. Merge --without-added and add it to the result by "
                "`python -m shards add-modality`, or tokens by `python -m pipeline tokenize`"
            )


def _cell_deg(members: Sequence[Dataset]) -> float:
    """The side of the grid cells, which is one for all: cells of different sizes do not compare."""
    sizes = {member.manifest["recipe"]["split_cell_deg"]: member.path for member in members}
    if len(sizes) > 1:
        told = ", ".join(f"{size:g} in {path}" for size, path in sizes.items())
        raise ShardError(
            f"the splits are made of grid cells of different sizes ({told}), so whether they share a "
            "place cannot be told; build them with the same split_cell_deg"
        )
    return next(iter(sizes))


def _check_keys(members: Sequence[Dataset]) -> None:
    counts = Counter(key for member in members for key in member.keys)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ShardError(
            f"{len(twice)} keys come twice, such as {twice[0]!r}; keys of one data set are unique"
        )


def _check_cells(members: Sequence[Dataset]) -> None:
    splits: dict[str, set[str]] = {}
    for member in members:
        table = samples_columns(member, ["cell", "split"]).to_pydict()
        for cell, split in zip(table["cell"], table["split"], strict=True):
            if cell is not None:
                splits.setdefault(cell, set()).add(split)
    shared = {cell: found for cell, found in splits.items() if len(found) > 1}
    if shared:
        cell, found = next(iter(shared.items()))
        raise ShardError(
            f"{len(shared)} grid cells would lie in two splits, such as {cell} in "
            f"{' and '.join(sorted(found))}: neighbours would be trained on and tested on. Allow it "
            "with --allow-leakage and deal the samples out anew with `python -m shards split`"
        )
