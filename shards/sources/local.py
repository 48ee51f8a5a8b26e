"""Files below a folder, opened the way remote ones are."""

from pathlib import Path
from typing import BinaryIO


class LocalFolder:
    """Files below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def open(self, name: str) -> BinaryIO | None:
        """The file `name` below the folder; None where there is none."""
        try:
            return (self.path / name).open("rb")
        except FileNotFoundError:
            return None
