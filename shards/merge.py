"""Several data sets as one folder: their shards linked side by side under new numbers.

Tars are not rewritten: they are hard links where the file system allows it, else copies. Each shard
gets an index over the union of all modalities, in which what its data set lacks is missing. Splits
keep their names; a grid cell that lies in two splits after the merge is refused unless it is allowed.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.modality import Modality
from shards import finish
from shards.codec import META_PART, part_name
from shards.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.files import disk_errors, fsync_folder, temporary_name, write_atomic
from shards.filters import samples_columns
from shards.index import ENTRY, ShardIndex, index_path, make_index, read_index
from shards.manifest import MANIFEST, read_manifest
from shards.mixed import MixedDataset
from shards.plan import PlannedShard
from shards.record import rewrite_record
from shards.writer import RECORD_SUFFIX


def merge(out: Path, sources: Sequence[Path], *, allow_leakage: bool = False) -> dict[str, Any]:
    """Make `out` of the data sets; returns its manifest. Stopped, the same command goes on.

    Raises ShardError for contradicting modalities, keys that come twice, a grid cell in two splits,
    or a folder that holds something else.
    """
    members = [open_dataset(path) for path in sources]
    rows = MixedDataset(members).modalities
    _check_keys(members)
    if not allow_leakage:
        _check_cells(members)
    recipe = {
        "merged": [member.fingerprint for member in members],
        "split_cell_deg": members[0].manifest["recipe"]["split_cell_deg"],
    }
    if (out / MANIFEST).exists():
        manifest = read_manifest(out / MANIFEST)
        if manifest["recipe"] != recipe:
            raise ShardError(f"{out} holds another data set; choose another folder")
        return manifest
    parts = (*(part_name(row) for row in rows.values()), META_PART)
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
    source = {"type": "merge", "paths": [str(path) for path in sources]}
    finish.finish(out, shards, splits, rows, parts, finish.Origin("", recipe, source))
    return read_manifest(out / MANIFEST)


def _adopt(old: Path, new: Path, parts: Sequence[str], rows: dict[str, Modality]) -> None:
    """Link one shard; its index and record are made to fit the union of parts."""
    tar, target = old.with_suffix(".tar"), new.with_suffix(".tar")
    index = _widened(read_index(index_path(tar)), parts)
    record = rewrite_record(tar, index, rows)
    write_atomic(target.with_suffix(RECORD_SUFFIX), record)
    write_atomic(index_path(target), index.to_bytes())
    with disk_errors(new.parent):
        temporary = temporary_name(target)
        temporary.unlink(missing_ok=True)
        try:
            os.link(tar, temporary)
        except OSError:
            # Another file system, or one without links.
            shutil.copyfile(tar, temporary)
        temporary.rename(target)
        fsync_folder(target.parent)


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
