"""Modalities added to a finished data set: tokens beside the pixels, same shard, same slot, same key.

    OUT/extra/<name>/info.json                    what they were made by; fixed with the first shard
    OUT/extra/<name>/<split>/shard-000000.tar     members KEY.<name>.npy, .idx beside it
    OUT/extra/<name>/{index.bin,manifest.json}    written last: the extra exists from here on

Several processes may write different shards; one of them commits when all are there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from shards.codec import encode_npy
from shards.dataset import Dataset
from shards.errors import ShardError
from shards.files import finite, sweep, to_json, write_atomic
from shards.index import committed, write_joined
from shards.manifest import EXTRA, INDEX, MANIFEST, write_manifest
from shards.writer import ShardWriter


class ExtraWriter:
    """Write the extra `name` of a data set; resumable, slot by slot aligned with its samples.

    `info` (JSON values) says what the parts were made by, such as a tokenizer's digest and
    vocabulary; shards made by different ones never mix.
    Raises ShardError for an unusable name, or a folder begun with other `info` or another data set.
    """

    def __init__(self, dataset: Dataset, name: str, info: Mapping[str, Any]) -> None:
        if not name.isidentifier() or name in dataset.modalities:
            raise ShardError(
                f"{name!r} cannot name an extra: letters, digits and underscores, and not the name "
                "of a modality"
            )
        self.dataset = dataset
        self.name = name
        self.info: dict[str, Any] = finite(dict(info))
        self.folder = dataset.path / EXTRA / name
        self._begin()

    def done_shards(self) -> set[str]:
        """Shards already committed, as `split/shard-000000`."""
        return {s for s in self._all_shards() if committed(self.folder / f"{s}.tar")}

    def write_shard(self, split_shard_name: str, parts: Sequence[np.ndarray | None]) -> None:
        """Commit one shard: a part per sample in slot order, None where the sample has none.

        Raises ShardError for a shard the data set does not have, another number of parts, or a disk
        that refuses.
        """
        split, _, shard = split_shard_name.partition("/")
        samples = self.dataset.shard_samples(split, shard)
        if len(parts) != len(samples):
            raise ShardError(
                f"{self.name}: {split_shard_name} has {len(samples)} samples, {len(parts)} parts "
                "were given; give None for a sample without one"
            )
        member = f"{self.name}.npy"
        with ShardWriter(self.folder / f"{split_shard_name}.tar", (member,)) as writer:
            for i, part in zip(samples, parts, strict=True):
                members = {} if part is None else {member: encode_npy(part)}
                writer.add(self.dataset.keys[i], members)
            writer.commit()

    def commit(self) -> dict[str, Any]:
        """Make the extra exist; returns its manifest. Again is harmless.

        Raises ShardError naming the shards that are still missing.
        """
        found = {s: committed(self.folder / f"{s}.tar") for s in self._all_shards()}
        indices = {shard: index for shard, index in found.items() if index}
        missing = [shard for shard in found if shard not in indices]
        if missing:
            raise ShardError(
                f"{self.folder}: {len(missing)} of {len(found)} shards are missing "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); write them first"
            )
        # With all shards there nobody writes any more, so temporaries are leftovers.
        for folder in (self.folder, *(p for p in self.folder.iterdir() if p.is_dir())):
            sweep(folder)
        index_digest = write_joined(self.folder / INDEX, list(indices.values()))
        shards = [
            {
                "split": split,
                "name": name,
                "num_samples": found_index.num_samples,
                "tar_bytes": found_index.tar_bytes,
                "digest": found_index.digest,
            }
            for (split, name), found_index in zip(
                self.dataset.shards, indices.values(), strict=True
            )
        ]
        manifest = {
            "name": self.name,
            "info": self.info,
            "dataset": self.dataset.fingerprint,
            "fingerprint": xxhash.xxh3_128_hexdigest(to_json([self.info, shards])),
            "num_present": sum(int((i.present & 1).sum()) for i in indices.values()),
            "index_digest": index_digest,
            "shards": shards,
        }
        write_manifest(self.folder / MANIFEST, manifest)
        return manifest

    def _all_shards(self) -> list[str]:
        return [f"{split}/{name}" for split, name in self.dataset.shards]

    def _begin(self) -> None:
        path = self.folder / "info.json"
        mine = {"dataset": self.dataset.fingerprint, "info": self.info}
        if path.exists():
            theirs = json.loads(path.read_bytes())
            if theirs != mine:
                raise ShardError(
                    f"{self.folder} was begun with {theirs}, now {mine} is asked for; they must not "
                    "mix: remove the folder, or choose another name"
                )
        else:
            write_atomic(path, to_json(mine))
