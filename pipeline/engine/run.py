"""Start a training run: meet the other ranks, take the folder, build everything, train."""

import contextlib
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from configs.schema import RunConfig
from pipeline.engine import distributed, lifecycle
from pipeline.engine.distributed import World
from pipeline.engine.errors import RunError
from pipeline.engine.heartbeat import Heartbeat
from pipeline.engine.loop import Trainer
from pipeline.engine.monitor import Monitor
from pipeline.engine.objective import Objective

Stage = TypeVar("Stage", bound=Objective)


def _nobody(_: Objective) -> None:
    return None


def train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Stage],
    dataset: dict[str, str],
    monitor: Callable[[Stage], Monitor | None] = _nobody,
) -> int:
    """Run to the last step or to a signal; the exit code says which.

    `build(device)` makes the objective once the ranks have met, `monitor(objective)` what looks at its
    model now and then; `dataset` is what the run's record says about its data. Raises ConfigError,
    RunError, CheckpointError or DivergedError.
    """
    world = distributed.start(config.engine.device)
    with lifecycle.StopFlag() as stop, contextlib.ExitStack() as held:
        refusal = None
        if world.is_main:
            try:
                held.enter_context(lifecycle.run_lock(config.out))
            except RunError as error:
                refusal = str(error)
        # None of the others may touch the folder of a run that is alive.
        refusal = world.broadcast(refusal)
        if refusal is not None:
            raise RunError(refusal)
        try:
            return _train(config, title, build, dataset, monitor, world, stop)
        except RunError as error:
            if world.is_main:
                # On a full disk the reason is still told, only not written down.
                with contextlib.suppress(OSError):
                    lifecycle.mark_failed(config.out, error)
            raise


def _train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Stage],
    dataset: dict[str, str],
    monitor: Callable[[Stage], Monitor | None],
    world: World,
    stop: lifecycle.StopFlag,
) -> int:
    heartbeat = Heartbeat(config.out, world.rank, world.size, config.engine.watch)
    try:
        torch.manual_seed(config.engine.seed)
        objective = build(world.device)
        trainer = Trainer(config, title, objective, world, heartbeat, monitor(objective))
        try:
            trainer.resume()
            trainer.announce(dataset)
            code = trainer.run(stop)
        finally:
            trainer.close()
    finally:
        heartbeat.close()
    # Together, or the first to leave takes away the store through which the others say goodbye.
    world.barrier()
    return code


def quiet_torch() -> None:
    """Silence what torch and DeepSpeed say about their own insides at start-up."""
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed)\..*")
