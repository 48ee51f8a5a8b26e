"""Splits made after the build: the same samples, dealt out anew, without moving a byte of them.

    OUT/splits/<name>.json    the names of the splits and what they were made from, sealed by a digest
    OUT/splits/<name>.bin     a byte per sample: the number of its split

Whole grid cells go to one split, by the same rule as in a build (`shards.plan`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from shards.errors import ShardError
from shards.files import raw, write_atomic
from shards.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    from shards.dataset import Dataset

FOLDER = "splits"


@dataclass(frozen=True)
class Splitting:
    """The names of the splits, and the split of every sample: uint8 [N], positions in `names`."""

    names: tuple[str, ...]
    split_of: np.ndarray


def make_splitting(
    dataset: "Dataset", name: str, shares: Mapping[str, float], cell_deg: float, seed: int
) -> Splitting:
    """Deal the samples out by grid cell and keep the result under `name`.

    Raises ShardError for a name that is taken by other splits or cannot name a file, or shares that
    do not sum to 1.
    """
    from shards.filters import samples_columns
    from shards.plan import assign_splits

    if not name.isidentifier():
        raise ShardError(f"{name!r} cannot name a splitting: letters, digits and underscores")
    # Said as what must hold, so that a share that is no number does not pass.
    if not (all(v >= 0 for v in shares.values()) and abs(sum(shares.values()) - 1) <= 1e-6):
        raise ShardError(f"the shares of the splits must be >= 0 and sum to 1, got {dict(shares)}")
    recipe = {
        "splits": list(shares),
        "shares": list(shares.values()),
        "cell_deg": cell_deg,
        "seed": seed,
        "dataset": dataset.fingerprint,
    }
    manifest = dataset.path / FOLDER / f"{name}.json"
    if manifest.exists():
        found = {k: v for k, v in read_manifest(manifest).items() if k in recipe}
        if found != recipe:
            raise ShardError(f"{manifest} was made from {found}; choose another name, or remove it")
        return read_splitting(dataset, name)
    listing = samples_columns(dataset, ["key", "lon", "lat"])
    split_of = assign_splits(listing, shares, cell_deg, seed).astype(np.uint8)
    write_atomic(manifest.with_suffix(".bin"), bytes(raw(split_of)))
    counts = np.bincount(split_of, minlength=len(shares)).tolist()
    write_manifest(
        manifest, recipe | {"counts": counts, "content": xxhash.xxh3_64_hexdigest(raw(split_of))}
    )
    return Splitting(tuple(shares), split_of)


def read_splitting(dataset: "Dataset", name: str) -> Splitting:
    """What `make_splitting` kept. Raises ShardError when there is none, or it is damaged."""
    path = dataset.path / FOLDER / f"{name}.json"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.json"))
        raise ShardError(
            f"{dataset.path} has no splitting {name!r} (it has {', '.join(known) or 'none'}); make "
            f"one with `python -m shards split {dataset.path} --name {name} ...`"
        )
    manifest: dict[str, Any] = read_manifest(path)
    try:
        split_of = np.fromfile(path.with_suffix(".bin"), np.uint8)
    except OSError as error:
        raise ShardError(
            f"{path.with_suffix('.bin')} cannot be read: {error}; remove {path.name} and make both again"
        ) from error
    if manifest["dataset"] != dataset.fingerprint:
        raise ShardError(f"{path} was made for another content of this folder; make it again")
    if xxhash.xxh3_64_hexdigest(raw(split_of)) != manifest["content"]:
        raise ShardError(f"{path.with_suffix('.bin')} is damaged; remove both and make them again")
    return Splitting(tuple(manifest["splits"]), split_of)
