"""One index and the tars it points into: the data set's own parts, or those of an extra."""

import bisect
import functools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from shards.errors import DamagedError
from shards.index import ShardIndex, make_index
from shards.keys import Keys
from shards.reading import TarFiles, Wanted, read_parts
from shards.sample import Part
from shards.storage import ShardCache, is_url, open_tar
from shards.tar import BLOCK_BYTES

# Sizes are asked for side by side: behind a URL, and on a cluster's disk, each takes its time.
_NUM_ASKING = 16


class Store:
    """Parts of N samples, by sample number and column of the index.

    `root` is a folder or URL; `shards` are names such as `train/shard-000000`, `bounds` the number of
    the first sample of each, and N last; `tar_bytes` their sizes.
    """

    def __init__(
        self,
        root: str,
        index: ShardIndex,
        shards: Sequence[str],
        bounds: Sequence[int],
        tar_bytes: Sequence[int],
        cache: ShardCache | None = None,
    ) -> None:
        self.index = index
        self._tars = [f"{root.rstrip('/')}/{name}.tar" for name in shards]
        self._names, self._bounds, self._tar_bytes = shards, bounds, tar_bytes
        self._cache = cache
        self._copies: dict[int, str] = {}
        self._files = TarFiles()

    def present(self, p: int) -> np.ndarray:
        """Which samples have part `p`: bool [N]."""
        return (self.index.present >> np.uint32(p) & np.uint32(1)).astype(bool)

    def read(
        self, i: int, columns: Iterable[tuple[int, str]], into: Mapping[str, np.ndarray]
    ) -> dict[str, Part]:
        """The parts (p, name) of sample `i`, those it has, by name. Raises DamagedError."""
        shard = bisect.bisect_right(self._bounds, i) - 1
        present, entries = int(self.index.present[i]), self.index.entries[i].tolist()
        wanted = []
        for p, name in sorted(columns):
            if present >> p & 1:
                block, size, digest = entries[p]
                wanted.append(Wanted(name, self.index.parts[p], block * BLOCK_BYTES, size, digest))
        path = self._copies.get(shard) or self._locate(shard)
        try:
            return read_parts(self._files, path, self._tar_bytes[shard], wanted, into)
        except (DamagedError, OSError) as error:
            name = Path(path).name
            raise DamagedError(
                f"{path}, sample {self.index.keys[i]}: {error}; find all damage with `python -m shards "
                f"verify` and mend it with `python -m shards repair`, or remove {name} and its .idx "
                "and run the same build again: it makes the shard anew"
            ) from error

    @property
    def tars(self) -> Sequence[str]:
        """Paths or URLs."""
        return self._tars

    def extent(self, i: int, p: int) -> tuple[str, int, int] | None:
        """Tar, block and size of a part of sample `i`; None where it is missing."""
        if not int(self.index.present[i]) >> p & 1:
            return None
        block, size, _ = self.index.entries[i, p].tolist()
        return self._tars[bisect.bisect_right(self._bounds, i) - 1], block, size

    def damaged_shards(self) -> list[str]:
        """Tars that are missing or not of their size, each with what is wrong; nothing is read."""
        with ThreadPoolExecutor(_NUM_ASKING) as pool:
            found = pool.map(_size_problem, self._tars, self._tar_bytes)
            return [line for line in found if line]

    def _locate(self, shard: int) -> str:
        origin = self._tars[shard]
        if self._cache is None:
            return origin
        index = functools.partial(self._part_of, shard)
        found = self._cache.locate(self._names[shard], origin, index)
        if found is None:
            return origin
        self._copies[shard] = found
        return found

    def _part_of(self, shard: int) -> ShardIndex:
        """The index of one shard, without keys."""
        rows = slice(self._bounds[shard], self._bounds[shard + 1])
        index = self.index
        no_keys = Keys(np.zeros(0, "<u8"), b"")
        return make_index(
            index.parts, self._tar_bytes[shard], index.present[rows], index.entries[rows], no_keys
        )


def _size_problem(tar: str, expected: int) -> str | None:
    try:
        size = open_tar(tar).size if is_url(tar) else Path(tar).stat().st_size
    except FileNotFoundError:
        return f"{tar}: missing"
    except OSError as error:
        return f"{tar}: cannot be asked for its size: {error}"
    return None if size == expected else f"{tar}: {size} bytes long, {expected} bytes expected"
