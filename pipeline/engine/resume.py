"""What a run is, and going on with one from its newest commit."""

import json
from pathlib import Path
from typing import Any

from pipeline.engine import generators
from pipeline.engine.base import Engine
from pipeline.engine.checkpoint import Commit
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError, RunError
from pipeline.engine.statefile import StateReader


def restore(
    engine: Engine,
    folder: Path,
    commit: Commit,
    world: World,
    seed: int,
    *,
    with_optimizer: bool = True,
) -> None:
    """Put a commit's state into an engine of any ZeRO stage, under any number of ranks.

    Without the optimizer's part, that one starts as at the first step. Raises CheckpointError when
    the commit is of another model.
    """
    reader = StateReader(folder, commit.world_size)
    if with_optimizer:
        engine.allocate(reader.kinds(), commit.scalars)
    else:
        engine.allocate({}, {})
    wanted = list(engine.pieces(owned=False))
    # A buffer that this version of the model has and the commit lacks would keep its first values.
    missing = sorted({p.name for p in wanted} - reader.shapes.keys())
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing[:3])}: it is of another model")
    reader.fill(wanted)
    engine.refresh()
    generators.restore(reader, world, seed, commit.step, commit.world_size)


def check_identity(
    folder: Path, commit: Commit, identity: dict[str, Any], *, allow: bool
) -> list[str]:
    """The differences between a run and the one that made a commit.

    Raises RunError where there are any, unless they are allowed.
    """
    changed = differences(commit.identity, identity)
    if changed and not allow:
        raise RunError(
            f"{folder} was written by another model or another order of data: {'; '.join(changed)}. "
            "Write out=ANOTHER_FOLDER for a new run, restore the former values to go on, or "
            "engine.allow_changes=true to go on nevertheless"
        )
    return changed


def plain(value: object) -> dict[str, Any]:
    """As JSON gives it back, so that a saved identity compares equal to a fresh one."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """One line per value that is not the same."""
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} was {old!r} and is {new!r}")
    return lines
