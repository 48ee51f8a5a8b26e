"""Modalities added to a finished data set: same shard, same slot, same key.

    OUT/extra/<name>/info.json                    what they were made by; fixed with the first shard
    OUT/extra/<name>/<split>/shard-000000.tar     members KEY.<name>.npy, .idx beside it, and in .json
                                                  sums of its pixels and what was left out
    OUT/extra/<name>/{index.bin,manifest.json}    written last: the extra exists from here on

There are two kinds: derived ones, such as tokens, are arrays a program makes sense of; a modality of
the registry, added from another source, has its row in the manifest and reads like those of the build.

Several processes may write different shards; one of them commits when all are there.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from configs.schema.modality import Modality
from shards.codec import Payload, encode_part, npy_payload, part_name
from shards.dataset import Dataset
from shards.errors import ShardError
from shards.files import disk_errors, finite, fsync_folder, sweep, to_json, try_lock, write_atomic
from shards.index import committed, write_joined
from shards.manifest import EXTRA, INDEX, MANIFEST, write_manifest
from shards.record import Fault
from shards.sample import Part, part_problem
from shards.stats import Statistics
from shards.writer import ShardWriter


def made_by(info: dict[str, Any]) -> dict[str, Any]:
    """What makes two extras the same: all that is told of them but where from here their maker lies."""
    return {key: value for key, value in info.items() if key != "artifact"}


@contextlib.contextmanager
def hold_extra(dataset: Dataset, name: str) -> Iterator[bool]:
    """Hold the folder of an extra against other jobs for the block; False where one of them holds it.

    The lock dies with the process. Raises ShardError when the disk refuses.
    """
    folder = dataset.path / EXTRA / name
    with contextlib.ExitStack() as stack:
        # The block's own errors are not the disk's.
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            mine = stack.enter_context(try_lock(folder / ".lock"))
        yield mine


class ExtraWriter:
    """Write the extra `name` of a data set; resumable, slot by slot aligned with its samples.

    `row` is given for a modality of the registry. `info` (JSON values) says what the parts were made
    by, such as a tokenizer's digest and vocabulary; shards made by different ones never mix.
    Raises ShardError for an unusable name, or a folder begun with other `info` or another data set.
    """

    def __init__(
        self, dataset: Dataset, name: str, info: Mapping[str, Any], row: Modality | None = None
    ) -> None:
        if not (name.isidentifier() and (row is None or row.name == name)):
            raise ShardError(f"{name!r} cannot name an extra: letters, digits and underscores")
        if name in dataset.own_modalities:
            raise ShardError(f"{dataset.path} has had {name} since it was built")
        self.dataset = dataset
        self.name = name
        self.row = row
        self.info: dict[str, Any] = finite(dict(info))
        self.folder = dataset.path / EXTRA / name
        self._begin()

    def done_shards(self) -> set[str]:
        """Shards already committed, as `split/shard-000000`."""
        return {s for s in self._all_shards() if committed(self.folder / f"{s}.tar")}

    def lacking(self, wanted: np.ndarray) -> dict[str, list[int]]:
        """By committed shard: samples that `wanted` (bool [N]) names and the shard has no part of."""
        found = {}
        for (split, name), shard in zip(self.dataset.shards, self._all_shards(), strict=True):
            index = committed(self.folder / f"{shard}.tar")
            if index is not None:
                samples = self.dataset.shard_samples(split, name)
                slots = np.flatnonzero(
                    wanted[samples.start : samples.stop] & (index.present & 1 == 0)
                )
                found[shard] = [samples[slot] for slot in slots]
        return {shard: lacks for shard, lacks in found.items() if lacks}

    def discard(self, shards: Sequence[str]) -> None:
        """Take committed shards back, to be written anew; until the next commit there is no extra.

        Raises ShardError when the disk refuses.
        """
        # The manifest first: with it, a missing shard would be damage that nothing opens over.
        with disk_errors(self.folder):
            for path in (self.folder / MANIFEST, *(self.folder / f"{s}.tar" for s in shards)):
                path.unlink(missing_ok=True)
                fsync_folder(path.parent)

    def faults(self) -> list[Fault]:
        """What was left out in the shards already committed, by whichever run. Raises ShardError."""
        return [
            Fault(**fault)
            for shard in self._all_shards()
            if committed(self.folder / f"{shard}.tar")
            for fault in self._told(shard, "faults")
        ]

    def write_shard(
        self,
        split_shard_name: str,
        parts: Sequence[Part | None],
        faults: Sequence[Fault] = (),
    ) -> None:
        """Commit one shard: a part per sample in slot order, None where the sample has none.

        `faults` say what the source has and could not give. Raises ShardError for a shard the data
        set does not have, another number of parts, or a disk that refuses.
        """
        split, _, shard = split_shard_name.partition("/")
        samples = self.dataset.shard_samples(split, shard)
        if len(parts) != len(samples):
            raise ShardError(
                f"{self.name}: {split_shard_name} has {len(samples)} samples, {len(parts)} parts "
                "were given; give None for a sample without one"
            )
        member = f"{self.name}.npy" if self.row is None else part_name(self.row)
        rows = {} if self.row is None else {self.name: self.row}
        statistics = Statistics(rows)
        with ShardWriter(self.folder / f"{split_shard_name}.tar", (member,), ".json") as writer:
            for i, part in zip(samples, parts, strict=True):
                members: dict[str, Payload] = {}
                if part is not None:
                    members[member] = self._encode(part)
                    statistics.add({self.name: part})
                writer.add(self.dataset.keys[i], members)
            told = {"statistics": statistics.dump(), "faults": [vars(fault) for fault in faults]}
            writer.commit(to_json(told))

    def _encode(self, part: Part) -> Payload:
        if self.row is None:
            assert isinstance(part, np.ndarray)
            return npy_payload(part)
        wrong = part_problem(part, self.row)
        if wrong:
            raise ShardError(f"{self.name}: {wrong}")
        return encode_part(part, self.row)

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
        } | self._measured()
        write_manifest(self.folder / MANIFEST, manifest)
        return manifest

    def _measured(self) -> dict[str, Any]:
        """The row and what its train pixels add up to, for an added modality."""
        if self.row is None:
            return {}
        statistics = Statistics({self.name: self.row})
        splits = {split for split, _ in self.dataset.shards}
        wanted = "train" if "train" in splits else None
        for split, name in self.dataset.shards:
            if wanted in (None, split):
                statistics.merge([self._told(f"{split}/{name}", "statistics")])
        return {
            "modality": finite(self.row.model_dump(mode="json")),
            "statistics": statistics.bands(),
            "class_counts": statistics.classes(),
        }

    def _told(self, shard: str, what: str) -> Any:
        path = self.folder / f"{shard}.json"
        try:
            return json.loads(path.read_bytes())[what]
        except (OSError, ValueError, KeyError) as error:
            raise ShardError(
                f"{path}: not what is kept beside a shard: {error!r}; remove it with its .tar and "
                "run the same command again: it makes the shard anew"
            ) from error

    def _all_shards(self) -> list[str]:
        return [f"{split}/{name}" for split, name in self.dataset.shards]

    def _begin(self) -> None:
        path = self.folder / "info.json"
        mine: dict[str, Any] = {"dataset": self.dataset.fingerprint, "info": self.info}
        if self.row is not None:
            mine["modality"] = finite(self.row.content())
        if path.exists():
            theirs = json.loads(path.read_bytes())
            if {**theirs, "info": made_by(theirs["info"])} != {**mine, "info": made_by(self.info)}:
                raise ShardError(
                    f"{self.folder} was begun with {theirs}, now {mine} is asked for; they must not "
                    "mix: remove the folder, or choose another name"
                )
        else:
            write_atomic(path, to_json(mine))
