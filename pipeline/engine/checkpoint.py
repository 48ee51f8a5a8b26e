"""Checkpoints that exist only when they are whole.

    RUN/checkpoints/
      step-00000200/                committed: every file is as the manifest says
        MANIFEST.json               step, cursor, world size, identity, versions, files with digests
        zero/...                    DeepSpeed's model and optimizer parts, one per rank
        rng-0000.pt                 torch's generators of each rank
      step-00000300.tmp/            being written, or left by a crash; swept by the next save

Saving: room is checked, all ranks write into the temporary folder and meet, rank 0 writes the manifest,
flushes, renames. Loading: rank 0 finds the newest commit that verifies and tells the others.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Commit:
    """The manifest of one committed checkpoint."""

    step: int
    cursor: int
    world_size: int
    identity: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


class CheckpointStore:
    """The commits of one run."""

    def __init__(self, folder: Path, world: World, keep_last: int):
        self.folder, self._world, self._keep_last = folder, world, keep_last

    def save(
        self, commit: Commit, write_parts: Callable[[Path], None], needed_bytes: int = 0
    ) -> Path:
        """Write and commit. All ranks must call it; `write_parts(folder)` writes each rank's part.

        Raises CheckpointError on every rank when `needed_bytes` are not free or any rank could not
        write; earlier commits stay.
        """
        final = self.folder / f"step-{commit.step:08d}"
        temporary = final.with_suffix(".tmp")
        problem: str | None = None
        if self._world.is_main:
            problem = _attempt(lambda: self._prepare(temporary, needed_bytes))
        problem = self._world.broadcast(problem)
        if problem is None:
            # Writing has collectives of its own. A rank that fails in it must not go on to a vote that
            # the others, still waiting inside, would never reach: it leaves, and that ends their wait.
            problem = _attempt(lambda: self._write_rank(temporary, write_parts))
            if problem is None:
                problem = _attempt(self._world.barrier)
        if problem is None:
            if self._world.is_main:
                problem = _attempt(lambda: self._commit(commit, temporary, final))
            problem = self._world.broadcast(problem)
        if problem is not None:
            if self._world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"step {commit.step} could not be committed to {self.folder}: {problem}. Earlier commits "
                "are untouched: free some space or mend the folder, then start the same command again"
            )
        return final

    def latest(self) -> tuple[Path, Commit] | None:
        """The newest commit that verifies, the same on every rank; None when nothing was committed.

        A damaged commit is reported and passed over. Raises CheckpointError when commits exist and
        none of them is whole.
        """
        found = self._world.broadcast(self._find_latest() if self._world.is_main else None)
        if isinstance(found, str):
            raise CheckpointError(found)
        return found

    def _find_latest(self) -> tuple[Path, Commit] | str | None:
        problems = []
        for folder in committed(self.folder):
            try:
                commit = verify(folder)
            except CheckpointError as error:
                problems.append(str(error))
                warnings.warn(f"{error}; trying the commit before it", stacklevel=2)
                continue
            return folder, commit
        if problems:
            return (
                f"no commit in {self.folder} is whole: {'; '.join(problems)}. Restore the missing files, "
                "or remove the folder to start from step 0"
            )
        return None

    def _prepare(self, temporary: Path, needed_bytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in (*self.folder.glob("*.tmp"), *self.folder.glob("*.trash")):
            shutil.rmtree(stale)
        free = shutil.disk_usage(self.folder).free
        if free < needed_bytes:
            raise OSError(
                f"{needed_bytes / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free"
            )
        temporary.mkdir()

    def _write_rank(self, temporary: Path, write_parts: Callable[[Path], None]) -> None:
        write_parts(temporary)
        torch.save(_rng_state(), temporary / f"rng-{self._world.rank:04d}.pt")

    def _commit(self, commit: Commit, temporary: Path, final: Path) -> None:
        files = {}
        for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
            # A copy of a conversion script that DeepSpeed puts beside the weights; not part of the state.
            if path.suffix == ".py":
                path.unlink()
                continue
            _fsync(path)
            files[str(path.relative_to(temporary))] = {
                "bytes": path.stat().st_size,
                "xxh3_128": digest(path),
            }
        manifest = temporary / MANIFEST
        manifest.write_text(json.dumps(asdict(commit) | {"files": files}, indent=1))
        _fsync(manifest)
        if final.exists():  # a damaged commit of the same step that was passed over on resume
            _discard(final)
        temporary.rename(final)
        _fsync(self.folder)
        for old in committed(self.folder)[self._keep_last :]:
            _discard(old)


def committed(folder: Path) -> list[Path]:
    """Committed step folders, newest first."""
    return sorted(
        (p.parent for p in folder.glob(f"step-*/{MANIFEST}") if not p.parent.suffix), reverse=True
    )


def verify(folder: Path) -> Commit:
    """Check every file of a commit against its manifest.

    Raises CheckpointError naming the first file that is missing or differs.
    """
    try:
        commit = Commit(**json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is not readable: {error}") from error
    for name, expected in commit.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, committed were {expected['bytes']}"
            )
        if digest(path) != expected["xxh3_128"]:
            raise CheckpointError(f"{path} is not what was committed: its digest differs")
    return commit


def restore_rng(folder: Path, rank: int) -> None:
    """Put torch's generators of this rank back to where the commit left them."""
    state = torch.load(folder / f"rng-{rank:04d}.pt", weights_only=True)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def digest(path: Path) -> str:
    """xxh3-128 of a file, read in blocks."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _attempt(action: Callable[[], None]) -> str | None:
    """The reason why writing failed, or None. torch reports a full disk as RuntimeError."""
    try:
        action()
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _discard(folder: Path) -> None:
    """Remove a commit so that a crash in between never leaves half of one under its name."""
    trash = folder.with_suffix(".trash")
    folder.rename(trash)
    shutil.rmtree(trash)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
