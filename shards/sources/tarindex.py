"""Where the members of a foreign tar lie, found by walking its headers once.

A tar that was cut or damaged is still good for the members that lie inside it; for the others it
says what happened, and never that it does not have them.
"""

import os
from typing import BinaryIO

from shards.errors import DamagedError, SampleError
from shards.sources.tar_members import walk
from shards.tar import escape_key


class TarIndex:
    """The members `KEY + suffix` of an open, uncompressed tar, by escaped key, in the tar's order.

    `where` names the tar in messages. `damage` says where the walk ended before the tar's end, if it
    did. Closing is the caller's. Raises OSError where the file cannot be read.
    """

    def __init__(self, file: BinaryIO, suffix: str, where: str) -> None:
        self._file = file
        self.where = where
        self.num_bytes = os.fstat(file.fileno()).st_size
        self.damage: str | None = None
        self._members: dict[str, tuple[int, int]] = {}
        self._walk(suffix)

    def close(self) -> None:
        self._file.close()

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of every member, by key; they need not all lie inside the file."""
        return {key: num for key, (_, num) in self._members.items()}

    def read(self, key: str) -> bytes | None:
        """A member; None when the tar is whole and has none of that key.

        Raises SampleError when the member is lost with the part of the tar that is missing.
        """
        if key not in self._members:
            if self.damage:
                raise SampleError(f"{self.damage}; download it again")
            return None
        offset, num = self._members[key]
        data = os.pread(self._file.fileno(), num, offset)
        if len(data) < num:
            raise SampleError(
                f"{self.where} ends after {self.num_bytes} bytes, inside the member of {key}; "
                "download it again"
            )
        return data

    def _walk(self, suffix: str) -> None:
        try:
            for name, offset, num_bytes in walk(self._file.fileno()):
                if name.endswith(suffix):
                    stem = name.removesuffix(suffix).rpartition("/")[2]
                    self._members[escape_key(stem)] = (offset, num_bytes)
        except DamagedError as error:
            self.damage = f"{self.where} is cut or damaged {error}"
