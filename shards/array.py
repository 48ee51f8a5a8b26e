"""A build by independent processes, such as the tasks of a Slurm array: no MPI, any number at a time.

    every task:  plan (one makes it, the others wait for it)
                 -> claim a shard nobody has -> write, commit -> next
                 -> none left: wait for the others' -> one of them finishes the data set

Tasks may come, go, die and be started again at any time; plan, commit protocol and bytes are those
of a build under MPI. What a dead task had claimed is taken over when its lease ends.
"""

import time
import zlib
from pathlib import Path

from configs.schema import ShardsConfig
from shards import finish
from shards.build import (
    BuildResult,
    finish_build,
    hold_folder,
    load_or_make_plan,
    result_of,
)
from shards.claims import Claims
from shards.defaults import LEASE_S
from shards.errors import ShardError
from shards.fill import Site, Task, TooManyBad, fill_shard, open_site, too_many
from shards.index import index_path
from shards.manifest import MANIFEST, PLAN
from shards.plan import Plan, PlannedShard, save_plan
from shards.progress import Progress
from shards.record import Fault, read_record

_POLL_S = 0.5


def build_array(
    config: ShardsConfig, *, quiet: bool = False, lease_s: float = LEASE_S
) -> BuildResult:
    """This process's share of a build; returns when the data set is whole, whoever finished it.

    Raises ShardError as `shards.build.build` does.
    """
    start_s = time.monotonic()
    site = open_site(config)
    with hold_folder(config.out, shared=True):
        claims = Claims(config.out, lease_s)
        plan, recipe = _plan(config, site, claims)
        num_built = 0
        if not finish.is_whole(config.out):
            num_built = _work(site, plan, claims, quiet=quiet)
        while not finish.is_whole(config.out):
            with claims.hold("finish") as mine:
                if mine and not finish.is_whole(config.out):
                    _check_bad(site, plan)
                    _sweep(config.out, claims)
                    finish_build(site, plan, recipe)
            time.sleep(_POLL_S)
    return result_of(config.out, num_built, time.monotonic() - start_s)


def _plan(config: ShardsConfig, site: Site, claims: Claims) -> tuple[Plan, dict]:
    path = config.out / PLAN
    while not path.exists():
        with claims.hold("plan") as mine:
            if mine and not path.exists():
                plan, recipe = load_or_make_plan(config, site.source)
                save_plan(plan, path, recipe)
                return plan, recipe
        if not path.exists():
            time.sleep(_POLL_S)
    return load_or_make_plan(config, site.source)


def _work(site: Site, plan: Plan, claims: Claims, *, quiet: bool) -> int:
    """Write shards until none is missing; returns how many were written here."""
    missing = sorted(plan.shards, key=lambda s: (-s.num_bytes, s.path))
    # Each task begins elsewhere in the list, so that they seldom ask for the same claim.
    turn = zlib.crc32(claims.owner.encode()) % max(1, len(missing))
    missing = missing[turn:] + missing[:turn]
    num_built = num_bad = 0
    with Progress(sum(s.num_samples for s in missing), quiet=quiet) as progress:
        site.report = progress.advance
        while missing:
            waiting: list[PlannedShard] = []
            for shard in missing:
                if _is_there(site, shard):
                    continue
                name = shard.path.replace("/", "-")
                with claims.hold(name) as mine:
                    if not mine:
                        waiting.append(shard)
                    elif not _is_there(site, shard):
                        # A data set with a hole must not look whole.
                        (site.config.out / MANIFEST).unlink(missing_ok=True)
                        try:
                            done = fill_shard(site, Task(shard, plan.refs(shard), num_bad), _idle)
                        except TooManyBad as error:
                            known = _faults(site, plan)
                            finish.write_quarantine(site.config.out, [*known, *error.offenders])
                            raise
                        except ShardError:
                            if claims.owns(name):
                                raise
                            # Taken for dead: whoever took over has swept what was begun here.
                            waiting.append(shard)
                            continue
                        num_bad += len(done.faults)
                        num_built += 1
            missing = waiting
            if missing:
                time.sleep(_POLL_S)
    return num_built


def _is_there(site: Site, shard: PlannedShard) -> bool:
    tar = site.tar(shard)
    # Existence first: reading the index of every shard in every round would be slow.
    return tar.exists() and index_path(tar).exists() and read_record(tar) is not None


def _faults(site: Site, plan: Plan) -> list[Fault]:
    """What all tasks together have left out in the shards that are there."""
    records = [read_record(site.tar(shard)) for shard in plan.shards]
    return [fault for record in records if record for fault in record.faults]


def _check_bad(site: Site, plan: Plan) -> None:
    """Every task kept within the bound alone; here they are counted together."""
    bad = _faults(site, plan)
    if len(bad) > site.config.max_bad:
        finish.write_quarantine(site.config.out, bad)
        raise too_many(site.config, bad, [])


def _sweep(out: Path, claims: Claims) -> None:
    """Remove what killed tasks left: temporaries nobody has written to for a lease's time."""
    for leftover in out.rglob(".*.tmp-*"):
        if claims.is_old(leftover):
            leftover.unlink(missing_ok=True)


def _idle() -> None:
    """Nobody to answer between samples."""
