"""Carry out a plan: read each sample once, write its shard, count its statistics.

One process, or as many as MPI started; the bytes are the same. What is committed is never done
again, so a killed, failed or repeated build goes on where it was, with any number of ranks.

What cannot be read is tried once more and then left out, with its reason in `quarantine.jsonl`: of
a sample only the modality concerned, whose presence bit is cleared; the sample itself when nothing of
it is usable, and then those behind it in the shard move up one slot. The slots of a shard therefore
depend on the plan and on which of its samples are unusable, and on nothing else. More than `max_bad`
faults end the build; the shard that would exceed the bound is not committed.
"""

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema import ShardsConfig
from shards import finish
from shards.errors import ShardError
from shards.files import disk_errors, finite, sweep, try_lock
from shards.fill import Done, Site, Task, TooManyBad, fill_shard, open_site, too_many
from shards.manifest import EXTRA, MANIFEST, PLAN, SCHEMA_VERSION, read_manifest
from shards.plan import Plan, PlannedShard, load_plan, plan, save_plan
from shards.progress import Progress
from shards.record import Fault, read_record
from shards.schedule import Comm, Leader, follow
from shards.sources import Source
from shards.sources.base import OfFiles


@dataclass(frozen=True)
class BuildResult:
    """What a build did. `fingerprint` names the data set's content."""

    out: Path
    num_samples: int
    num_shards: int
    num_built: int
    num_quarantined: int
    fingerprint: str
    seconds: float


def build(config: ShardsConfig, *, quiet: bool = False) -> BuildResult | None:
    """Make, finish or confirm the data set at `config.out`.

    Returns what was done on rank 0, None on other MPI ranks. Raises ShardError, on all ranks alike,
    when the source is unusable, the folder belongs to another plan, too many samples are unusable,
    or the disk refuses. Finished shards are kept in every case.
    """
    comm = _communicator()
    if comm is not None and comm.rank > 0:
        # Opened with the first task: an error then travels to rank 0 like any other.
        open_once = functools.cache(functools.partial(open_site, config))
        follow(comm, lambda task, idle: fill_shard(open_once(), task, idle))
        return None
    error: ShardError | None = None
    build_run = _Build(config, comm, quiet)
    try:
        return build_run.run()
    except (ShardError, ConfigError) as caught:
        error = caught if isinstance(caught, ShardError) else ShardError(str(caught))
        raise
    except BaseException as caught:
        error = ShardError(f"the build failed on rank 0: {caught!r}")
        raise
    finally:
        build_run.leader.dismiss(error)


def load_or_make_plan(config: ShardsConfig, source: Source) -> tuple[Plan, dict[str, Any]]:
    """The plan of `config` and its recipe: from the folder when it is there, else made anew.

    Writes nothing. Warns when files of the source are newer than the plan. Raises ShardError when the
    folder holds another plan, naming what differs.
    """
    recipe = _recipe(config, source)
    path = config.out / PLAN
    if path.exists():
        stored, stored_recipe = load_plan(path)
        if stored_recipe != recipe:
            raise ShardError(_other_plan(config.out, stored_recipe, recipe))
        _warn_of_newer(config.out, source)
        return stored, recipe
    if (config.out / MANIFEST).exists():
        raise ShardError(f"{config.out} holds a data set without a plan; choose another `out`")
    return plan(source.listing(), config), recipe


def result_of(out: Path, num_built: int, seconds: float) -> BuildResult:
    """What a finished data set is, as the outcome of a build."""
    manifest = read_manifest(out / MANIFEST)
    return BuildResult(
        out=out,
        num_samples=manifest["num_samples"],
        num_shards=len(manifest["shards"]),
        num_built=num_built,
        num_quarantined=manifest["num_quarantined"],
        fingerprint=manifest["fingerprint"],
        seconds=seconds,
    )


def finish_build(site: Site, plan: Plan, recipe: dict[str, Any]) -> None:
    """Make a data set of the shards of a plan, all of which are there. Raises ShardError."""
    origin = finish.Origin(plan.digest, recipe, site.config.source.model_dump(mode="json"))
    finish.finish(site.config.out, plan.shards, list(plan.counts), site.rows, site.parts, origin)


class _Build:
    """Rank 0's part: prepare, lead, finish."""

    def __init__(self, config: ShardsConfig, comm: Comm | None, quiet: bool) -> None:
        self.config = config
        self.quiet = quiet
        self.bad: list[Fault] = []
        self.leader = Leader(comm, self._brief, self._accept)
        self.progress: Progress | None = None
        self.plan: Plan | None = None

    def run(self) -> BuildResult:
        start_s = time.monotonic()
        site = open_site(self.config)
        site.report = self._advance
        with hold_alone(self.config.out):
            the_plan, recipe = load_or_make_plan(self.config, site.source)
            if not (self.config.out / PLAN).exists():
                save_plan(the_plan, self.config.out / PLAN, recipe)
            missing: list[PlannedShard] = []
            if not finish.is_whole(self.config.out):
                missing = self._missing(site, the_plan)
                if missing:
                    self.plan = the_plan
                    self._write(site, missing)
                finish_build(site, the_plan, recipe)
        return result_of(self.config.out, len(missing), time.monotonic() - start_s)

    def _missing(self, site: Site, the_plan: Plan) -> list[PlannedShard]:
        """What is still to be written; takes note of what was quarantined in the rest."""
        missing = []
        for shard in the_plan.shards:
            record = read_record(site.tar(shard))
            if record is None:
                missing.append(shard)
            else:
                self.bad += record.faults
        if len(self.bad) > self.config.max_bad:
            raise too_many(self.config, self.bad, [])
        return missing

    def _write(self, site: Site, missing: list[PlannedShard]) -> None:
        # The manifest goes first: a data set with a hole must not look whole.
        (self.config.out / MANIFEST).unlink(missing_ok=True)
        # Largest first keeps the last rank from starting a big shard when the others are done.
        ordered = sorted(missing, key=lambda s: (-s.num_bytes, s.path))
        try:
            with Progress(sum(s.num_samples for s in missing), quiet=self.quiet) as self.progress:
                self.leader.run(ordered, lambda task, idle: fill_shard(site, task, idle))
        except TooManyBad as error:
            finish.write_quarantine(self.config.out, self.bad + list(error.offenders))
            raise

    def _brief(self, shard: PlannedShard) -> Task:
        assert self.plan is not None
        return Task(shard, self.plan.refs(shard), len(self.bad))

    def _accept(self, done: Done) -> None:
        self.bad += done.faults
        self._advance(done.num_samples, done.num_bytes)
        # Two ranks may each have kept within the bound they knew of.
        if len(self.bad) > self.config.max_bad:
            raise too_many(self.config, self.bad, [])

    def _advance(self, num_samples: int, num_bytes: int) -> None:
        assert self.progress is not None
        self.progress.advance(num_samples, num_bytes)


def _recipe(config: ShardsConfig, source: Source) -> dict[str, Any]:
    """Everything that decides what is built, as JSON values; keys are named in error messages."""
    values = {
        "schema": SCHEMA_VERSION,
        "source": source.name,
        "source_fingerprint": source.fingerprint(),
        "modalities": [row.content() for row in source.rows.values()],
        **config.model_dump(mode="json", exclude={"kind", "source", "out", "max_bad"}),
        # A mapping's order is lost in JSON, and the order of splits is the order of samples.
        "split_order": list(config.splits) if config.splits != "source" else "source",
    }
    return finite(values)


def _warn_of_newer(out: Path, source: Source) -> None:
    """Fingerprints read no file, and miss one that was rewritten in its size.

    A warning only, because copies of a folder are newer too.
    """
    if not isinstance(source, OfFiles):
        return
    when_s, path = source.newest()
    if when_s > (out / PLAN).stat().st_mtime:
        warnings.warn(
            f"{path} was written after {out} was planned, and has kept its size; if it has changed, what "
            f"was built before is of the old file: remove {out} and build it anew",
            stacklevel=3,
        )


def _other_plan(out: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [k for k in wanted if stored.get(k) != wanted[k]]
    details = [
        f"{k} was {stored.get(k)!r}, now {wanted[k]!r}" if k != "modalities" else "modalities"
        for k in changed
    ]
    return (
        f"{out} was made from another plan ({'; '.join(details)}); choose another `out`, or remove "
        "the folder to build it anew"
    )


@contextlib.contextmanager
def hold_folder(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a data set's folder against other builds, or together with other tasks of an array.

    Raises ShardError when it is taken.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            mine = stack.enter_context(try_lock(out / ".lock", shared=shared))
        if not mine:
            raise ShardError(
                f"another build is writing to {out}; wait for it, or choose another folder"
            )
        yield


@contextlib.contextmanager
def hold_alone(out: Path) -> Iterator[None]:
    """Hold the folder against everybody. Sweeps temporaries: nobody else can be at work on them."""
    with hold_folder(out):
        for folder in (out, *(p for p in out.iterdir() if p.is_dir() and p.name != EXTRA)):
            sweep(folder)
        yield


def mpi_rank() -> int:
    """This process's rank as its launcher announced it; 0 without one."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return int(os.environ.get("SLURM_PROCID", 0)) if "SLURM_STEP_NUM_TASKS" in os.environ else 0


def _communicator() -> Comm | None:
    """MPI's world when a launcher started several ranks, else None, without touching MPI."""
    sizes = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
    expected = max(int(os.environ.get(name, 1)) for name in sizes)
    if expected == 1:
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ShardError(
            f"started as {expected} ranks, but mpi4py does not load ({error}); install it with "
            "`pip install .[mpi]`, or start a single process"
        ) from error
    if MPI.COMM_WORLD.size != expected:
        raise ShardError(
            f"the launcher started {expected} processes, but MPI sees {MPI.COMM_WORLD.size}; "
            "launch with the mpiexec of the MPI that mpi4py was built for (Slurm: srun --mpi=pmix)"
        )
    return MPI.COMM_WORLD
