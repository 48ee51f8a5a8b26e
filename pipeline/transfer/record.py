"""results.jsonl: what was made is a line, and a line is never made again.

A cell is one fit: a task, a protocol, what it was trained on, with how many labels, by which seed. It has a
digest of everything that decides its numbers, and a line per set of test inputs. Lines of a cell are written
together once all are known, each with the number `of` them: a cell that was cut off between two is none.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from configs.schema import InputSet, TransferConfig
from configs.schema.transfer import Protocol
from shards.files import to_json

FILE = "results.jsonl"
Line = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One fit. `labels` is its amount of labels in words: `10 %`, `5 shots`."""

    task: str
    protocol: Protocol
    train_on: str
    labels: str
    seed: int
    share: float | None = None
    shots: int | None = None

    @property
    def name(self) -> str:
        """Also the name of a folder."""
        labels = f"{self.share:g}" if self.share is not None else f"{self.shots}shots"
        return f"{self.task}-{self.protocol}-{self.train_on}-{labels}-seed{self.seed}".replace(
            "/", "_"
        )


def cells(config: TransferConfig, task: str, train_on: list[str]) -> list[Cell]:
    """All cells of a task, seed by seed: of random twins one is needed at a time.

    Those of a frozen backbone come first. kNN is fitted to maps by nobody.
    """
    amounts = [(f"{100 * share:g} %", share, None) for share in config.fractions]
    amounts += [(f"{n} shots", None, n) for n in config.shots]
    return [
        Cell(task, protocol, given, labels, seed, share, shots)
        for seed in config.seeds
        for protocol in sorted(config.protocols, key=("knn", "probe", "finetune").index)
        for given in train_on
        for labels, share, shots in amounts
    ]


def cell_digest(
    cell: Cell, config: TransferConfig, backbone: str, data: str, tests: dict[str, InputSet]
) -> str:
    """Names exactly what makes these numbers: weights, task, data, protocol, inputs, seed."""
    decides = [
        vars(cell), backbone, config.init, config.merge, data,
        config.tasks[cell.task].model_dump(mode="json"),
        config.train_on[cell.train_on].model_dump(mode="json"),
        {name: given.model_dump(mode="json") for name, given in tests.items()},
        config.fit.model_dump(mode="json"), config.neighbours, config.bootstrap,
    ]  # fmt: skip
    return xxhash.xxh3_64_hexdigest(to_json(decides))


def read_results(out: Path) -> list[Line]:
    """All lines of whole cells; lines and cells that a crash cut off are left out."""
    path = out / FILE
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "cell" in line:
            lines.append(line)
    return whole_cells(lines)


def whole_cells(lines: Iterable[Line]) -> list[Line]:
    """The lines of the cells that have all of theirs; of one that was made again, the later ones."""
    found: dict[str, dict[Any, Line]] = {}
    for line in lines:
        found.setdefault(line["cell"], {})[line.get("test_on")] = line
    return [
        line
        for members in found.values()
        for line in members.values()
        if line.get("of") == len(members)
    ]


def append_results(out: Path, lines: list[Line]) -> None:
    """All lines of a cell at once, on the disk when this returns."""
    text = "".join(json.dumps(line | {"of": len(lines)}, allow_nan=False) + "\n" for line in lines)
    path = out / FILE
    # A line that a crash cut off must not swallow the next one.
    if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        text = "\n" + text
    with path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
