"""What training met that could not be read: `RUN/damaged/rank-000.jsonl`, one line per sample.

A file per rank, because appends of several machines to one file are not safe on every file system.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.loader import Damage


class DamageLog:
    """Appends to this rank's file; there is none until something is damaged."""

    def __init__(self, out: Path, rank: int):
        self.folder = out / "damaged"
        self._path = self.folder / f"rank-{rank:03d}.jsonl"

    def write(self, found: Iterable[Damage]) -> int:
        """Keep what was found; returns how many samples that were."""
        lines = [json.dumps(dataclasses.asdict(damage)) + "\n" for damage in found]
        if lines:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.writelines(lines)
        return len(lines)
