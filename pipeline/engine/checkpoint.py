"""Checkpoints that exist only when they are whole.

    RUN/checkpoints/
      step-00000200/                committed: every file is as the manifest says
        MANIFEST.json               step, cursor, world size, identity, versions, scalars, files
        rank-0000.safetensors       what rank 0 answers for of model and optimizer, its generators
      step-00000300.tmp/            being written, or left by a crash; swept by the next save

Saving: every rank copies its pieces to host memory, which is all that training waits for, and a thread
writes them. Each step's vote tells the ranks when all have written; then rank 0 writes the manifest,
flushes, renames. Loading: the newest commit that verifies, the same on every rank, which check the
files between them. Any number of ranks reads any commit: see `statefile`.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from configs.schema import EngineConfig
from pipeline.engine.base import Piece, Scalars
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError, OtherFormatError
from pipeline.engine.lifecycle import file_digest, write_atomic
from pipeline.engine.mapped import MappedMemory
from pipeline.engine.statefile import Snapshot, Written, file_name
from shards.files import fsync_folder

MANIFEST = "MANIFEST.json"
FORMAT = 2


@dataclass(frozen=True)
class Commit:
    """The manifest of one committed checkpoint.

    `scalars` are the optimizer's numbers, `guard` what the guard remembers.
    """

    step: int
    cursor: int
    world_size: int
    identity: dict[str, Any]
    versions: dict[str, str]
    scalars: Scalars = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


class CheckpointStore:
    """The commits of one run.

    `begin` starts a save; `advance`, called at every vote, carries it on; `finish` waits for it. All
    ranks call each of them at the same place. A save that fails raises CheckpointError on all of them;
    earlier commits stay. With `disk` the copies of the state lie there in place of memory.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        keep_last: int,
        keep_every_steps: int = 0,
        disk: MappedMemory | None = None,
    ):
        self.folder, self._world = folder, world
        self._keep_last, self._keep_every = keep_last, keep_every_steps
        self._snapshot = Snapshot(disk)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._work: Future[Any] | None = None
        self._pending: Commit | None = None
        self._parts_written = False

    @property
    def is_saving(self) -> bool:
        return self._pending is not None

    @property
    def state(self) -> tuple[int, int]:
        """This rank's (busy, failed), to be summed over the ranks and given to `advance`."""
        if self._work is None or not self._work.done():
            return int(self._work is not None), 0
        return 0, int(self._work.exception() is not None)

    def begin(self, commit: Commit, pieces: list[Piece]) -> None:
        """Copy this rank's pieces and start writing them."""
        self.finish()
        num_bytes = self._snapshot.take(pieces)
        temporary = self._temporary(commit)
        needed = sum(self._world.gather(num_bytes))
        problem = None
        if self._world.is_main:
            problem = _attempt(lambda: self._prepare(temporary, needed))
        self._refuse(commit, self._world.broadcast(problem))
        path = temporary / file_name(self._world.rank)
        self._work = self._writer.submit(self._snapshot.write, path)
        self._pending, self._parts_written = commit, False

    def advance(self, busy: float, failed: float) -> Path | None:
        """Carry a save on, knowing how many ranks are busy and have failed; the folder once committed."""
        commit = self._pending
        if commit is None or (busy and not failed):
            return None
        if failed:
            self._fail(commit)
        assert self._work is not None
        final = self.folder / f"step-{commit.step:08d}"
        if self._parts_written:
            self._work = self._pending = None
            return final
        written: list[Written] = self._world.gather(self._work.result())
        self._parts_written = True
        if self._world.is_main:
            self._work = self._writer.submit(self._commit, commit, written, final)
        return None

    def finish(self) -> Path | None:
        """Wait for a save that is under way; the folder it was committed to."""
        final = None
        while self._pending is not None:
            if self._work is not None:
                self._work.exception()  # waits
            busy, failed = self._world.add(*self.state)
            final = self.advance(busy, failed)
        return final

    def abandon(self) -> None:
        """Stop caring for a save under way: the process is leaving because of something else."""
        self._pending = None
        self._writer.shutdown(wait=False, cancel_futures=True)

    def latest(self) -> tuple[Path, Commit] | None:
        """The newest commit that verifies, the same on every rank; None when nothing was committed.

        A damaged commit is reported and passed over. Raises CheckpointError when commits exist and
        none of them is whole.
        """
        problems = []
        for folder in self._world.broadcast(
            committed(self.folder) if self._world.is_main else None
        ):
            found = _verified(folder, self._world.rank, self._world.size)
            answers = self._world.gather(found if isinstance(found, str) else None)
            problem = next((a for a in answers if a is not None), None)
            if problem is None:
                assert isinstance(found, Commit)
                return folder, found
            problems.append(problem)
            if self._world.is_main:
                warnings.warn(f"{problem}; trying the commit before it", stacklevel=2)
        if problems:
            raise CheckpointError(
                f"no commit in {self.folder} is whole: {'; '.join(problems)}. Restore the missing files, "
                "or remove the folder to start from step 0"
            )
        return None

    def _temporary(self, commit: Commit) -> Path:
        return self.folder / f"step-{commit.step:08d}.tmp"

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

    def _commit(self, commit: Commit, written: list[Written], final: Path) -> None:
        """In rank 0's writer thread: the files are on disk, make them a commit."""
        temporary = self._temporary(commit)
        files = {w.name: {"bytes": w.num_bytes, "xxh3_128": w.digest} for w in written}
        write_manifest(temporary, replace(commit, files=files))
        fsync_folder(temporary)
        if final.exists():  # a damaged commit of the same step that was passed over on resume
            _discard(final)
        temporary.rename(final)
        fsync_folder(self.folder)
        # Later ones were passed over as damaged: they push out nothing that is whole.
        so_far = [c for c in committed(self.folder) if c.name <= final.name]
        for old in so_far[self._keep_last :]:
            if not self._keep_every or int(old.name[5:]) % self._keep_every:
                _discard(old)

    def _fail(self, commit: Commit) -> None:
        error = self._work.exception() if self._work is not None and self._work.done() else None
        own = None if error is None else f"{type(error).__name__}: {error}"
        answers = self._world.gather(own)
        self._pending = self._work = None
        self._refuse(commit, next((a for a in answers if a is not None), None))

    def _refuse(self, commit: Commit, problem: str | None) -> None:
        if problem is None:
            return
        if self._world.is_main:
            shutil.rmtree(self._temporary(commit), ignore_errors=True)
        raise CheckpointError(
            f"step {commit.step} could not be committed to {self.folder}: {problem}. Earlier commits "
            "are untouched: free some space or mend the folder, then start the same command again"
        )


def store_of(out: Path, config: EngineConfig, world: World) -> CheckpointStore:
    """The commits of a run as its configuration has them."""
    keep, nvme_path = config.checkpoint, config.offload.nvme_path
    return CheckpointStore(
        out / "checkpoints",
        world,
        keep.keep_last,
        keep.keep_every_steps,
        MappedMemory(nvme_path) if nvme_path else None,
    )


def committed(folder: Path) -> list[Path]:
    """Committed step folders, newest first."""
    return sorted(
        (p.parent for p in folder.glob(f"step-*/{MANIFEST}") if not p.parent.suffix), reverse=True
    )


def write_manifest(folder: Path, commit: Commit) -> None:
    """Write and flush it, with a digest of itself: a cursor that is wrong by a bit is wrong."""
    values = asdict(commit)
    write_atomic(folder / MANIFEST, json.dumps(values | {"digest": _digest_of(values)}, indent=1))


def read_manifest(folder: Path) -> Commit:
    """The manifest of a commit.

    Raises OtherFormatError for one of another version of this project, CheckpointError for one that
    is damaged.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text())
        if values.get("format", 1) != FORMAT:
            raise OtherFormatError(
                f"{folder} was written by another version of this project; go on with that version, "
                "or start anew with out=ANOTHER_FOLDER"
            )
        if values.pop("digest", None) != _digest_of(values):
            raise CheckpointError(f"{path} is not what was committed: its digest differs")
        return Commit(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not readable: {error}") from error


def _digest_of(values: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def verify(folder: Path, share: int = 0, num_shares: int = 1) -> Commit:
    """Check the files of a commit against its manifest, or one share of them.

    Raises CheckpointError naming the first file that is missing or differs.
    """
    commit = read_manifest(folder)
    for name, expected in sorted(commit.files.items())[share::num_shares]:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, committed were {expected['bytes']}"
            )
        if file_digest(path) != expected["xxh3_128"]:
            raise CheckpointError(f"{path} is not what was committed: its digest differs")
    return commit


def _verified(folder: Path, share: int, num_shares: int) -> Commit | str:
    try:
        return verify(folder, share, num_shares)
    except OtherFormatError:  # nothing is wrong with it: no reason to take an older one
        raise
    except CheckpointError as error:
        return str(error)
    except OSError as error:  # a disk that gives back nothing
        return f"{folder} is not readable: {error}"


def _attempt(action: Callable[[], None]) -> str | None:
    """The reason why writing failed, or None."""
    try:
        action()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _discard(folder: Path) -> None:
    """Remove a commit so that a crash in between never leaves half of one under its name."""
    trash = folder.with_suffix(".trash")
    folder.rename(trash)
    shutil.rmtree(trash)
