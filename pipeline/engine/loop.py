"""The training loop: build, resume, train, commit, leave. One for every objective.

    for each step:   batches -> forward, backward -> update -> (log) -> (evaluate) -> vote -> (commit)

Stopped at any point and started again with the same command line, a run goes on from its last
commit and ends where it would have ended.
"""

import itertools
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from configs.schema import RunConfig
from pipeline.data.loader import Loader, Slice
from pipeline.data.selection import make_stream, readable
from pipeline.engine import distributed, lifecycle
from pipeline.engine.checkpoint import CheckpointStore, Commit, restore_rng
from pipeline.engine.damage import DamageLog
from pipeline.engine.deepspeed import DeepSpeedEngine, describe
from pipeline.engine.distributed import World, to_device
from pipeline.engine.errors import CheckpointError, DivergedError, RunError
from pipeline.engine.metrics import MetricsLog, Window, say
from pipeline.engine.objective import Objective
from pipeline.engine.optimizer import learning_rate

MAX_SKIPPED_IN_A_ROW = 10
DAMAGED = "data/damaged"


def train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Objective],
    dataset: dict[str, str],
) -> int:
    """Run to the last step or to a signal; the exit code says which.

    `build(device)` makes the objective once the ranks have met; `dataset` is what the run's record
    says about its data. Raises RunError, CheckpointError or DivergedError.
    """
    world = distributed.start(config.engine.device)
    try:
        with lifecycle.StopFlag() as stop:
            if not world.is_main:
                return _train(config, title, build, dataset, world, stop)
            with lifecycle.run_lock(config.out):
                return _train(config, title, build, dataset, world, stop)
    finally:
        distributed.stop()


def _train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Objective],
    dataset: dict[str, str],
    world: World,
    stop: lifecycle.StopFlag,
) -> int:
    torch.manual_seed(config.engine.seed)
    objective = build(world.device)
    run = _Run(config, title, objective, world)
    run.resume()
    if world.is_main:
        lifecycle.write_records(config.out, config, world.size, dataset)
        run.announce()
    try:
        return run.train(stop)
    finally:
        run.close()


class _Run:
    """The state of one training run on one rank."""

    def __init__(self, config: RunConfig, title: str, objective: Objective, world: World):
        engine = config.engine
        self.config, self.title, self.objective, self.world = config, title, objective, world
        try:
            self.part = Slice(engine.global_batch, engine.micro_batch, world.rank, world.size)
        except ValueError as error:
            raise RunError(str(error)) from error
        try:
            self.order = make_stream(objective.dataset, objective.indices, config.data, engine.seed)
        except ValueError as error:
            raise RunError(str(error)) from error
        self.damage = DamageLog(config.out, world.rank)
        self.engine = DeepSpeedEngine(objective.model, engine, world, self.part.num_micro)
        self.store = CheckpointStore(config.out / "checkpoints", world, engine.checkpoint.keep_last)
        self.identity = _plain(
            {
                **objective.identity(),
                "global_batch": engine.global_batch,
                "seed": engine.seed,
                "data": config.data.order_of_samples(),
                "precision": engine.precision,
                "optimizer": engine.optimizer.model_dump(mode="json"),
            }
        )
        self.step = 0
        self.committed_step = -1
        self.evaluated: dict[str, float] = {}
        self.log: MetricsLog | None = None
        self.loader: Loader | None = None

    @property
    def cursor(self) -> int:
        """Samples consumed so far: the whole state of the data."""
        return self.step * self.config.engine.global_batch

    def resume(self) -> None:
        """Go on from the newest whole commit, or start fresh when there is none."""
        found = self.store.latest()
        if found is None:
            return
        folder, commit = found
        changed = _differences(commit.identity, self.identity)
        if changed:
            raise RunError(
                f"{folder} was written by another model or another order of data: {'; '.join(changed)}. "
                "Write out=ANOTHER_FOLDER for a new run, or restore the former values to go on"
            )
        if commit.world_size != self.world.size:
            raise CheckpointError(
                f"{folder} was written by {commit.world_size} ranks and {self.world.size} are running; "
                f"start it with {commit.world_size} ranks"
            )
        self.engine.load(folder)
        restore_rng(folder, self.world.rank)
        self.step = self.committed_step = commit.step

    def announce(self) -> None:
        engine = self.config.engine
        parameters = sum(p.numel() for p in self.objective.model.parameters())
        state = f"goes on from step {self.step}" if self.step else "starts"
        say(
            f"{self.title:<18} {state}: {parameters / 1e6:.2f} M parameters, {len(self.order)} samples, "
            f"{self.world.size} ranks on {self.world.device.type}, ZeRO-{engine.zero_stage}, "
            f"{engine.precision}, {describe()}"
        )
        for damaged in self.objective.dataset.damaged_shards():
            say(f"{self.title:<18} warning: {damaged}; what cannot be read is replaced")
        self.log = MetricsLog(self.config.out, self.title, engine.num_steps, self.step)

    def train(self, stop: lifecycle.StopFlag) -> int:
        engine = self.config.engine
        self.loader = Loader(
            self.order,
            self.objective.sample,
            self.objective.collate,
            self.part,
            cursor=self.cursor,
            prefetch=self.config.data.prefetch_batches,
            readers=self.config.data.readers,
        )
        batches = iter(self.loader)
        window, skipped = Window(), 0
        while self.step < engine.num_steps:
            outputs = [self.engine.forward_backward(b) for b in next(batches)]
            lr = learning_rate(self.step, engine.num_steps, engine.optimizer.lr, engine.schedule)
            info = self.engine.step(lr)
            self.step += 1
            window.steps += 1
            for output in outputs:
                window.add(output.sums)
            skipped = 0 if info.applied else skipped + 1
            self._check_diverged(skipped)

            last = self.step == engine.num_steps
            leave = self.world.any(bool(stop))
            commit = last or leave or self.step % engine.checkpoint.every_steps == 0
            if commit or self.step % engine.log_every == 0:
                self._report(window, lr, info.grad_norm)
                window.reset()
            if last or (engine.eval_every and self.step % engine.eval_every == 0):
                self._evaluate()
            if commit:
                self._commit()
            if leave and not last:
                return self._leave(stop)
        return self._finish()

    def close(self) -> None:
        if self.loader:
            self.loader.close()
        if self.log:
            self.log.close()

    def _report(self, window: Window, lr: float, grad_norm: float) -> None:
        assert self.loader is not None
        damaged = self.damage.write(self.loader.take_damage())
        counted = {DAMAGED: torch.tensor(float(damaged), device=self.world.device)}
        sums = self.world.sum(window.sums | counted)
        damaged = int(sums.pop(DAMAGED))
        values = self.objective.summarise(sums)
        if self.log is None:
            return
        values |= {"lr": lr, "grad_norm": grad_norm}
        if damaged:
            values["damaged_samples"] = damaged
            say(f"{self.title:<18} {damaged} damaged samples replaced; see {self.damage.folder}")
        rate = window.steps * self.config.engine.global_batch / max(window.seconds, 1e-9)
        remaining = (self.config.engine.num_steps - self.step) * self.config.engine.global_batch
        self.log.train(self.step, values, rate)
        self.log.progress(self.step, values["loss"], rate, remaining / rate)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Held-out values on a fixed set, shared out over the ranks."""
        engine = self.config.engine
        indices = _spread(self.objective.eval_indices, engine.eval_samples)
        mine = indices[self.world.rank :: self.world.size]
        window = Window()
        self.engine.model.eval()
        batch_size = max(1, engine.global_batch // self.world.size)
        # All ranks must bring the same names to the reduction: one without samples of its own
        # evaluates another's and counts it zero times.
        weight = 1 if len(mine) else 0
        mine = mine if len(mine) else indices[:1]
        for start in range(0, len(mine), batch_size):
            chunk = mine[start : start + batch_size]
            samples = [self._eval_sample(int(i), indices) for i in chunk]
            batch = to_device(self.objective.collate(samples), self.world.device)
            sums = self.objective.eval_sums(self.engine.model, batch)
            window.add({name: weight * value for name, value in sums.items()})
        self.engine.model.train()
        if len(indices):
            self.evaluated = self.objective.summarise(self.world.sum(window.sums))
            if self.log:
                self.log.evaluation(self.step, self.evaluated)

    def _eval_sample(self, index: int, others: np.ndarray) -> Any:
        """The sample, or the first of the others that is not damaged."""

        def read(i: int) -> Any:
            return self.objective.eval_sample(i, np.random.default_rng(i))

        found = next(readable(itertools.chain([index], others), read), None)
        if found is None:
            raise RunError(
                "no held-out sample can be read; look at the data with `python -m shards verify`"
            )
        return found

    def _commit(self) -> None:
        if self.step == self.committed_step:
            return
        commit = Commit(
            self.step, self.cursor, self.world.size, self.identity, lifecycle.versions()
        )
        self.store.save(commit, self.engine.save, self.engine.state_bytes)
        self.committed_step = self.step

    def _check_diverged(self, skipped: int) -> None:
        if skipped >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"{skipped} steps in a row had gradients that are not finite (up to step {self.step}); "
                "lower engine.optimizer.lr, or look at the data with `python -m shards verify`"
            )

    def _leave(self, stop: lifecycle.StopFlag) -> int:
        if self.world.is_main:
            name = stop.received.name if stop.received else "another rank's signal"
            say(f"{self.title:<18} {name}: committed step {self.step}, leaving to be started again")
        self.world.barrier()
        if self.world.is_main:
            stop.chain()
        return lifecycle.REQUEUE

    def _finish(self) -> int:
        if self.world.is_main:
            started = time.perf_counter()
            self.objective.finish(self.config.out)
            lifecycle.mark_done(self.config.out, self.step, self.evaluated)
            say(
                f"{self.title:<18} done ({time.perf_counter() - started:.1f} s to write what it leaves)"
            )
        self.world.barrier()
        return lifecycle.OK


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spread and always the same."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(int)]


def _plain(value: object) -> dict:
    """As JSON gives it back, so that a saved identity compares equal to a fresh one."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} was {old!r} and is {new!r}")
    return lines


def quiet_torch() -> None:
    """Silence what torch and DeepSpeed say about their own insides at start-up."""
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed)\..*")
