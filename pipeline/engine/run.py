"""Start a training run: meet the other ranks, take the folder, build everything, train."""

import contextlib
import warnings
from collections.abc import Callable

import torch

from configs.schema import RunConfig
from pipeline.engine import distributed, lifecycle
from pipeline.engine.distributed import World
from pipeline.engine.errors import RunError
from pipeline.engine.heartbeat import Heartbeat
from pipeline.engine.loop import Trainer
from pipeline.engine.objective import Objective


def train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Objective],
    dataset: dict[str, str],
) -> int:
    """Run to the last step or to a signal; the exit code says which.

    `build(device)` makes the objective once the ranks have met; `dataset` is what the run's record
    says about its data. Raises ConfigError, RunError, CheckpointError or DivergedError.
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
            return _train(config, title, build, dataset, world, stop)
        except RunError as error:
            if world.is_main:
                # On a full disk the reason is still told, only not written down.
                with contextlib.suppress(OSError):
                    lifecycle.mark_failed(config.out, error)
            raise


def _train(
    config: RunConfig,
    title: str,
    build: Callable[[torch.device], Objective],
    dataset: dict[str, str],
    world: World,
    stop: lifecycle.StopFlag,
) -> int:
    heartbeat = Heartbeat(config.out, world.rank, world.size, config.engine.watch)
    try:
        torch.manual_seed(config.engine.seed)
        trainer = Trainer(config, title, build(world.device), world, heartbeat)
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
