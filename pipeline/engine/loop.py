"""The training loop: build, resume, train, commit, leave. One for every objective.

    each step:   batches -> forward, backward -> vote -> update -> (log) -> (evaluate, monitor) -> (commit)

The vote is one small exchange over the CPU while a GPU still works on the backward pass: the loss of
the whole batch, signals and wishes, how a save is coming on. Everything that follows from it is decided
alike on all ranks. Stopped at any point and started again with the same command line, a run goes on
from its last commit and ends where it would have ended.
"""

import time
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from pipeline.data.cursor import cursors
from pipeline.data.loader import Loader, Slice
from pipeline.data.selection import make_stream
from pipeline.engine import generators, lifecycle
from pipeline.engine.absorb import learn
from pipeline.engine.base import Forward
from pipeline.engine.build import build_engines
from pipeline.engine.checkpoint import Commit, store_of
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError, RunError
from pipeline.engine.evaluation import evaluate
from pipeline.engine.flops import count_flops
from pipeline.engine.guard import Guard, LeftOut, Verdict
from pipeline.engine.heartbeat import FINISHING, WAITING, Heartbeat
from pipeline.engine.metrics import say
from pipeline.engine.monitor import Monitor, Monitoring
from pipeline.engine.objective import Objective
from pipeline.engine.profile import Profile
from pipeline.engine.reporter import Reporter
from pipeline.engine.resume import check_identity, plain, restore
from pipeline.engine.samplelog import SampleLog
from pipeline.engine.schedule import build_schedule
from pipeline.engine.vote import Vote


class Trainer:
    """The state of one training run on one rank."""

    def __init__(
        self,
        config: RunConfig,
        title: str,
        objective: Objective,
        world: World,
        heartbeat: Heartbeat,
        monitor: Monitor | None = None,
    ):
        engine = config.engine
        self.config, self.title, self.objective, self.world = config, title, objective, world
        self.heartbeat = heartbeat
        self.schedule = build_schedule(engine, objective.tokens_per_sample)
        try:
            self.part = Slice(engine.global_batch, engine.micro_batch, world.rank, world.size)
            self.order = make_stream(objective.dataset, objective.indices, config.data, engine.seed)
        except ValueError as error:
            raise RunError(str(error)) from error
        self.engine = build_engines(objective, engine, world, self.part.num_micro)
        generators.start(world, engine.seed)
        self.store = store_of(config.out, engine, world)
        self.identity = plain(
            {
                **objective.identity(),
                "global_batch": engine.global_batch,
                "seed": engine.seed,
                "data": config.data.order_of_samples(),
                "precision": engine.precision,
                "optimizer": engine.optimizer.model_dump(mode="json"),
            }
        )
        self.guard = Guard(engine.guard)
        self.left_out = LeftOut(config.out, engine.guard.max_rollbacks, world)
        self.reporter = Reporter(config, title, objective, world, self.schedule.num_steps)
        self.monitoring = Monitoring(monitor, self.engine, world, heartbeat, self.reporter)
        self.samples = SampleLog(config.out, objective.dataset, self.order, self.part)
        self.profile = Profile(config.out, world.rank, engine.profiler)
        self.step = self.cursor = 0
        self.committed_step = -1
        # Whether the save under way is one that a person asked for.
        self._asked = False
        self.evaluated: dict[str, float] = {}
        self.loader: Loader | None = None

    def resume(self) -> None:
        """Go on from the newest whole commit, or start fresh when there is none."""
        found = self.store.latest()
        if found is None:
            return
        folder, commit = found
        engine = self.config.engine
        changed = check_identity(folder, commit, self.identity, allow=engine.allow_changes)
        if changed and self.world.is_main:
            say(f"{self.title:<18} goes on though {'; '.join(changed)}")
        # What one optimizer has learned about the gradients means nothing to another.
        same = not any(line.startswith("optimizer.name ") for line in changed)
        restore(self.engine, folder, commit, self.world, engine.seed, with_optimizer=same)
        self.step = self.committed_step = commit.step
        self.cursor = commit.cursor
        self.guard.restore(commit.guard, self.left_out.stretches)

    def announce(self, dataset: dict[str, str]) -> None:
        """Write down what this run is made of and say so."""
        if self.config.engine.log_samples:
            self.samples.open(self.step)
        if not self.world.is_main:
            return
        about = {"dataset": dataset, "num_steps": self.schedule.num_steps}
        lifecycle.write_records(self.config.out, self.config, self.world.size, self.step, about)
        model = self.objective.model
        num_parameters = sum(int(getattr(p, "ds_numel", p.numel())) for p in model.parameters())
        state = f"goes on from step {self.step}" if self.step else "starts"
        say(
            f"{self.title:<18} {state}: {num_parameters / 1e6:.2f} M parameters, {len(self.order)} "
            f"samples, {self.world.size} ranks on {self.world.device.type}, "
            f"{self.config.engine.precision}, {self.engine.describe()}"
        )
        for damaged in self.objective.dataset.damaged_shards():
            say(f"{self.title:<18} warning: {damaged}; what cannot be read is replaced")
        self.reporter.open(self.step)

    def run(self, stop: lifecycle.StopFlag) -> int:
        """Train until the last step, a signal or a wish; the exit code."""
        engine = self.config.engine
        if self.committed_step < 0:
            # Tries out the folder before hours of work depend on it, and gives the guard a way back.
            self._save(wait=not engine.checkpoint.background)
        if self.step >= self.schedule.num_steps:
            # Killed between its last commit and DONE: what is left is to finish.
            self._evaluate()
            return self._finish()
        batches = self._load()
        while self.step < self.schedule.num_steps:
            self.heartbeat.at(self.step, "data")
            began = time.perf_counter()
            start, micro = next(batches)
            self.reporter.window.wait_s += time.perf_counter() - began
            self.heartbeat.at(self.step, "forward")
            self.profile.at(self.step)
            if self.reporter.flops_per_sample is None:
                flops = count_flops(self.engine.model, micro[0], self.world.device)
                self.reporter.flops_per_sample = flops
            outputs = [self.engine.forward_backward(batch) for batch in micro]
            self.heartbeat.at(self.step, WAITING)
            vote = self._vote(outputs, stop)
            info = self.engine.step(
                self.schedule.factor(self.step),
                skip=self.guard.distrusts(vote.loss),
                max_norm=self.guard.max_norm,
            )
            self.step += 1
            self.cursor = start + engine.global_batch
            self.samples.consumed(self.step, start)
            if info.applied:
                learn(self.engine, outputs, self.world)
            else:
                self._tell_skipped(start, vote.loss, info.grad_norm)
            self.reporter.add(outputs, info)
            verdict = self.guard.take(self.step, start, vote.loss, info.grad_norm, info.applied)
            if verdict is Verdict.ROLL_BACK:
                batches = self._roll_back()
                continue

            last = self.step == self.schedule.num_steps
            leave = vote.stop or vote.kill
            self._committed(self.store.advance(vote.busy, vote.failed))
            asked = vote.save and not self._asked
            due = self.step % engine.checkpoint.every_steps == 0
            if last or leave or due or self.step % engine.log_every == 0:
                assert self.loader is not None
                factor = self.schedule.factor(self.step - 1)
                self.reporter.report(self.step, factor, info.grad_norm, self.loader.take_damage())
            if last or (engine.eval_every and self.step % engine.eval_every == 0):
                self._evaluate()
            self.monitoring.at(self.step, last=last)
            if last or leave or due or asked:
                self._asked = self._asked or asked
                self._save(wait=last or leave or not engine.checkpoint.background)
            if leave and not last:
                return self._leave(stop, kill=vote.kill)
        return self._finish()

    def close(self) -> None:
        """Let go of threads and files, however the run ended."""
        if self.loader:
            self.loader.close()
        self.store.abandon()
        self.samples.close()
        self.profile.close()
        self.reporter.close()

    def _load(self) -> Any:
        """Pairs (first position, micro-batches) of the coming steps."""
        if self.loader:
            self.loader.close()
        self.loader = Loader(
            self.order,
            self.objective.sample,
            self.objective.collate,
            self.part,
            cursor=self.cursor,
            prefetch=self.config.data.prefetch_batches,
            readers=self.config.data.readers,
            left_out=self.left_out.stretches,
        )
        starts = cursors(self.cursor, self.config.engine.global_batch, self.left_out.stretches)
        return zip(starts, self.loader, strict=False)

    def _vote(self, outputs: list[Forward], stop: lifecycle.StopFlag) -> Vote:
        save, kill = lifecycle.wishes(self.config.out) if self.world.is_main else (False, False)
        local = sum(o.loss.get() for o in outputs) / self.config.engine.global_batch
        loss, *rest = self.world.add(local, bool(stop), kill, save, *self.store.state)
        return Vote(loss, *rest)

    def _evaluate(self) -> None:
        self.heartbeat.at(self.step, "eval")
        engine = self.config.engine
        batch_size = max(1, engine.global_batch // self.world.size)
        with self.engine.averaged():
            self.evaluated = evaluate(
                self.objective,
                self.engine,
                self.world,
                engine.eval_samples,
                batch_size,
                lambda: self.heartbeat.at(self.step, "eval"),
            )
        self.reporter.evaluated(self.step, self.evaluated)

    def _save(self, *, wait: bool) -> None:
        self.heartbeat.at(self.step, "save")
        if self.step != self.committed_step:
            began = time.perf_counter()
            commit = Commit(
                step=self.step,
                cursor=self.cursor,
                world_size=self.world.size,
                identity=self.identity,
                versions=lifecycle.versions(),
                scalars=self.engine.scalars(),
                guard=self.guard.state(),
            )
            pieces = [*self.engine.pieces(owned=True), *generators.pieces(self.world)]
            self.store.begin(commit, pieces)
            self.committed_step = self.step
            self.reporter.stalled_s = time.perf_counter() - began
        if wait:
            self._committed(self.store.finish())

    def _committed(self, folder: Path | None) -> None:
        """A save came to its end; where a person had asked for one, say so."""
        if folder is not None and self._asked:
            self._asked = False
            self._say(f"committed as asked: {folder}")
            if self.world.is_main:
                (self.config.out / "SAVE").unlink(missing_ok=True)

    def _roll_back(self) -> Any:
        """To the last commit, and from there on without the data of the skipped steps."""
        self.heartbeat.at(self.step, "rollback")
        self.store.finish()
        first = min(position for _, position in self.guard.skipped)
        self.left_out.add(first, self.cursor)
        left = self.step
        found = self.store.latest()
        if found is None:
            raise CheckpointError(f"the commit to go back to is gone from {self.store.folder}")
        folder, commit = found
        restore(self.engine, folder, commit, self.world, self.config.engine.seed)
        self.step = self.committed_step = commit.step
        self.cursor = commit.cursor
        self.guard.restore(commit.guard, self.left_out.stretches)
        self.reporter.rewind(self.step, left, (first, self.left_out.stretches[-1][1]))
        self.samples.rewind(self.step)
        return self._load()

    def _tell_skipped(self, start: int, loss: float, grad_norm: float) -> None:
        path = self.samples.write_skipped(self.step, start)
        self.reporter.skipped(self.step, loss, grad_norm, path)

    def _leave(self, stop: lifecycle.StopFlag, *, kill: bool) -> int:
        if kill:
            self._say(f"{self.config.out / 'KILL'}: committed step {self.step}, leaving")
            return lifecycle.GAVE_UP
        name = stop.received.name if stop.received else "another rank's signal"
        self._say(f"{name}: committed step {self.step}, leaving to be started again")
        stop.leave()
        self.world.barrier()
        if self.world.is_main:
            stop.chain()
        return lifecycle.REQUEUE

    def _finish(self) -> int:
        self.heartbeat.at(self.step, FINISHING)
        started = time.perf_counter()
        with self.engine.averaged(), self.engine.whole_model():
            if self.world.is_main:
                self.objective.finish(self.config.out)
        if self.world.is_main:
            lifecycle.mark_done(self.config.out, self.step, self.evaluated)
            took_s = time.perf_counter() - started
            self._say(f"done ({took_s:.1f} s to write what it leaves)")
        self.world.barrier()
        return lifecycle.OK

    def _say(self, text: str) -> None:
        if self.world.is_main:
            say(f"{self.title:<18} {text}")
