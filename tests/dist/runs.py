"""Run folders as tests look at them."""

import json
from pathlib import Path

from tests.dist.ranks import run_ranks


def curve(folder: Path) -> dict[int, float]:
    """Training loss by step; a step that is reported twice is a mistake."""
    lines = [line for line in metrics(folder) if "loss" in line and "event" not in line]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), "a step is reported twice"
    return {line["step"]: line["loss"] for line in lines}


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> list[dict]:
    return [line for line in metrics(folder) if "event" in line]


def run_several(commands: list[list[str]], world: int, folder: Path) -> str:
    """Run `pipeline` commands one after another on one set of ranks; returns what they said."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.json").write_text(json.dumps(commands))
    return run_ranks(["tests.dist.several", str(folder / "commands.json")], world, folder)


def consumed(folder: Path) -> list[int]:
    """Positions of the stream that all ranks of all starts consumed, sorted; by their own logs.

    After a restart with fewer ranks the files of the others are of steps before it.
    """
    found: dict[int, str] = {}
    positions = []
    for path in sorted((folder / "samples").glob("rank-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            first, stop = line["positions"]
            assert len(line["keys"]) == stop - first
            positions += range(first, stop)
            found |= dict(zip(range(first, stop), line["keys"], strict=True))
    return sorted(positions)
