"""Transfer as its folders tell it: every backbone that was judged on labels, in whatever state."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.report.files import Record, read_arrays, read_json, read_objects, read_yaml
from pipeline.transfer.done import SCORES
from pipeline.transfer.record import FILE, whole_cells
from pipeline.transfer.summary import latest

_SCRATCH = "-scratch"


@dataclass(frozen=True)
class Transferred:
    """One folder of results. `arm` is what it is compared by: an arm's name, `stage2-scratch`, a run's."""

    arm: str
    folder: Path
    config: Record
    lines: list[Record]

    def sheet(self, cell: str, notes: list[str]) -> dict[str, np.ndarray]:
        """Pictures to be of a cell; empty where there are none."""
        return read_arrays(self.folder / "sheets" / f"{cell}.npz", notes)

    @property
    def sheets(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "sheets").glob("*.npz"))


def read_transfer(folder: Path, arm: str, notes: list[str]) -> Transferred | None:
    """What `python -m pipeline transfer` left in a folder; None where it has not begun."""
    config = read_yaml(folder / "config.yaml", notes)
    if config.get("kind") != "transfer":
        return None
    lines = [x for x in read_objects(folder / FILE, notes) if _whole(x)]
    # results.jsonl also keeps what other settings, weights or data gave: the end says which cells count.
    cells = read_json(folder / SCORES, notes).get("cells")
    lines = whole_cells(lines)
    known = isinstance(cells, list)
    lines = [x for x in lines if x["cell"] in cells] if known else latest(lines)
    return Transferred(arm, folder, config, lines)


def read_transfers(run: Path, arm: str, notes: list[str]) -> list[Transferred]:
    """Those of one run of a comparison: pretrained, and from fresh weights."""
    found = [
        read_transfer(run / f"transfer{suffix}", arm + suffix, notes) for suffix in ("", _SCRATCH)
    ]
    return [x for x in found if x is not None]


def _whole(line: Record) -> bool:
    keys = ("cell", "task", "type", "protocol", "head", "train_on", "labels", "test_on", "seed")
    return all(key in line for key in keys) and isinstance(line.get("metrics"), dict)
