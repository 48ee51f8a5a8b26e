"""Any WebDataset as a source: tars whose members `KEY.SUFFIX` with one key make a sample.

- Names are cut as webdataset cuts them: the key ends at the first dot of the base name. Folders are
  part of the key, `a/b/0001.png` -> `a%2Fb%2F0001`; keys of our own shards stay as they are.
- A tar is a block. Members of a key need not lie side by side, but must lie in one tar.
- What the members are is told by the configuration, never guessed from what is in them; see
  `shards.sources.decoders` for the forms. Other members are passed over.
- Of a damaged tar, what lies before the damage is used, and a warning says so. A member that is cut, or
  that may be lost behind the damage, is a fault of its sample. What else was behind nobody knows: that
  is a fault `tar` of the last sample, so that `max_bad` must allow it.
- Places and days come from the JSON member that `members` calls `meta`, not from TIFF tags.
"""

import functools
import glob
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from configs.registry import in_registry_order, modality_registry
from configs.schema import WebDatasetSourceConfig
from configs.schema.modality import Modality
from shards.errors import DamagedError, SampleError, SourceError
from shards.files import to_json
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import TAR, SampleRef, make_listing, newest_of, registry_rows
from shards.sources.decoders import accepts, decode_member, decode_meta_json
from shards.sources.maps import DERIVED
from shards.sources.own_rows import label_row
from shards.sources.tar_members import Member, walk
from shards.tar import check_key, escape_key

if TYPE_CHECKING:
    import pyarrow as pa

META = "meta"


class WebDatasetSource:
    """The samples of local tars. Raises SourceError for members that cannot be what they should."""

    name = "webdataset"

    def __init__(self, config: WebDatasetSourceConfig) -> None:
        self._config = config
        self._suffixes = {name: suffix for suffix, name in config.members.items()}
        self._tar: _Tar | None = None
        for name, suffix in self._suffixes.items():
            if name != META and not accepts(suffix, self.rows[name].kind):
                raise SourceError(
                    f"source.members: {name} ({self.rows[name].kind}) cannot be read from members "
                    f"that end in .{suffix}"
                )

    @property
    def rows(self) -> dict[str, Modality]:
        """The modalities of the members, what `meta` gives, and labels the registry lacks."""
        return self._rows

    @functools.cached_property
    def _rows(self) -> dict[str, Modality]:
        registry = modality_registry()
        names = set(self._suffixes) - {META}
        own = {name: num for name, num in self._config.classes.items() if name not in registry}
        unknown = names - {*registry, *own}
        if unknown or len(own) < len(self._config.classes):
            raise SourceError(
                f"source.members: {', '.join(sorted(unknown)) or 'none'} not in the registry, which "
                f"has {', '.join(registry)}; for labels of your own (and only for those) write "
                "source.classes={NAME: NUMBER_OF_CLASSES}"
            )
        derived = DERIVED if META in self._suffixes else ()
        return registry_rows(in_registry_order({*(names - {*own}), *derived})) | {
            name: label_row(name, name, [f"class {i}" for i in range(num)], number)
            for number, (name, num) in enumerate(sorted(own.items()))
        }

    def fingerprint(self) -> str:
        """Digest of the tars' names and sizes and of the options."""
        options = self._config.model_dump(mode="json", exclude={"urls"})
        sizes = [(path.name, path.stat().st_size) for path in self._paths]
        return xxhash.xxh3_128_hexdigest(to_json([self.name, options, sizes]))

    def newest(self) -> tuple[float, Path]:
        """See `OfFiles`."""
        return newest_of(self._paths)

    def listing(self) -> "pa.Table":
        """All samples in the order of the tars; headers are read, and JSON members for places.

        Raises SourceError for a tar without any usable member. Warns of damaged tars.
        """
        keys: list[str] = []
        blocks: list[int] = []
        sizes: list[int] = []
        places: list[tuple[float | None, float | None]] = []
        for block, path in enumerate(self._paths):
            tar = _Tar(path, self._config.members)
            if tar.damage:
                warnings.warn(f"{tar.damage}; what lies before is used", stacklevel=2)
            for key, members in tar.samples.items():
                keys.append(key)
                blocks.append(block)
                sizes.append(sum(member.num_bytes for member in members.values()))
                places.append(self._place(tar, key))
        return make_listing(
            keys,
            block=blocks,
            lon=[lon for lon, _ in places],
            lat=[lat for _, lat in places],
            num_bytes=sizes,
            split=[self._config.split] * len(keys) if self._config.split else None,
        )

    def read(self, ref: SampleRef) -> Sample:
        """Every member of the key; what cannot be read, or may be lost, is a fault."""
        path = self._paths[ref.block]
        if self._tar is None or self._tar.path != path:
            self._tar = _Tar(path, self._config.members)
        tar = self._tar
        parts: dict[str, Part] = {}
        faults: dict[str, str] = {}
        meta = SampleMeta(source=self.name)
        for name, suffix in self._suffixes.items():
            try:
                data = tar.read(ref.key, suffix)
                if data is None:
                    continue
                where = f"{path}: {ref.key}.{suffix}"
                if name == META:
                    meta = decode_meta_json(data, self.name, where)
                else:
                    parts[name] = decode_member(suffix, data, self.rows[name], where)
            except (SampleError, OSError) as error:
                faults[name] = str(error)
        if tar.damage and ref.key == tar.last:
            faults[TAR] = f"{tar.damage}; whole samples may have been behind: fetch it again"
        if META in self._suffixes:
            parts = _derived(meta, self.rows) | parts
        return Sample(ref.key, parts, meta, faults)

    @functools.cached_property
    def _paths(self) -> list[Path]:
        found: list[str] = []
        for url in self._config.urls:
            if "://" in url:
                raise SourceError(f"source.urls: {url} is not local; download it and give its path")
            # Path.glob takes no absolute patterns.
            matching = sorted(glob.glob(url, recursive=True))  # noqa: PTH207
            names = [url] if Path(url).is_file() else matching
            if not names:
                raise SourceError(
                    f"source.urls: no file matches {url}; write a path or a glob such as "
                    "FOLDER/shard-*.tar"
                )
            found += names
        return [Path(name) for name in dict.fromkeys(found)]

    def _place(self, tar: "_Tar", key: str) -> tuple[float | None, float | None]:
        if META not in self._suffixes:
            return None, None
        try:
            data = tar.read(key, self._suffixes[META])
            meta = decode_meta_json(data, self.name, key) if data is not None else SampleMeta()
        except (SampleError, OSError):
            # Listed all the same: reading it fails again and is told with its reason.
            return None, None
        return meta.lon, meta.lat


class _Tar:
    """A tar, open as long as this lives, and what lies where in it.

    Raises SourceError when nothing in it can be used.
    """

    def __init__(self, path: Path, suffixes: Collection[str]) -> None:
        self.path = path
        self.samples: dict[str, dict[str, Member]] = {}
        self.damage: str | None = None
        self._twice: set[tuple[str, str]] = set()
        self.last = ""
        seen: set[str] = set()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for member in walk(self._fd):
                key, suffix = _split(member.name)
                seen.add(suffix)
                if key and suffix in suffixes:
                    self._add(key, suffix, member)
        except DamagedError as error:
            self.damage = f"{path} is cut or damaged {error}"
        if not self.samples:
            raise SourceError(
                self.damage
                or f"{path}: no member ends in {' or '.join(suffixes)}; there are "
                f"{', '.join(sorted(seen)) or 'no members'}: correct source.members"
            )

    def read(self, key: str, suffix: str) -> bytes | None:
        """The bytes of a member; None when the sample has none.

        Raises SampleError when it is cut, comes twice, or may have been lost with the tar's end.
        """
        member = self.samples.get(key, {}).get(suffix)
        if (key, suffix) in self._twice:
            raise SampleError(f"{self.path}: {key}.{suffix} comes twice")
        if member is None:
            if self.damage and key == self.last:
                raise SampleError(f"{self.damage}; {key}.{suffix} may have been behind")
            return None
        data = os.pread(self._fd, member.num_bytes, member.offset)
        if len(data) < member.num_bytes:
            raise SampleError(f"{self.path}: ends inside of {key}.{suffix}; fetch it again")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def _add(self, key: str, suffix: str, member: Member) -> None:
        members = self.samples.setdefault(key, {})
        if suffix in members:
            self._twice.add((key, suffix))
        members[suffix] = member
        self.last = key


def _split(name: str) -> tuple[str, str]:
    """`a/b/0001.s2.npy` -> key `a%2Fb%2F0001`, suffix `s2.npy`."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    key = folder + slash + stem
    if not stem:
        return "", suffix
    try:
        check_key(key)
    except SampleError:
        return escape_key(key), suffix
    return key, suffix


def _derived(meta: SampleMeta, rows: Collection[str]) -> dict[str, Part]:
    """The parts that the meta data give: the place, and the day of the first modality with one."""
    parts: dict[str, Part] = {}
    if meta.lon is not None and meta.lat is not None:
        parts["coordinates"] = np.array([meta.lon, meta.lat], np.float64)
    day = next((meta.times[name] for name in rows if name in meta.times), None)
    if day:
        parts["date"] = day
    return parts
