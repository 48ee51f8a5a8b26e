"""DeepSpeed ZeRO behind four verbs: forward and backward, step, save, load.

Its configuration is generated here, completely, from our schema: DeepSpeed accepts unknown keys in
silence and clips gradients by default, so nobody writes its JSON by hand.
"""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Asked to guess, DeepSpeed warns of each accelerator that it does not find.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DS_LOG_LEVEL", "error")

import deepspeed
import deepspeed.comm.torch as ds_torch_backend

from configs.schema import EngineConfig
from pipeline.data.loader import Batch
from pipeline.engine.distributed import World, to_device
from pipeline.engine.errors import CheckpointError
from pipeline.engine.objective import StepOutput
from pipeline.engine.optimizer import build_optimizer

TAG = "zero"


@dataclass(frozen=True)
class StepInfo:
    """`applied` is False where the gradient was not finite and the update was skipped everywhere."""

    applied: bool
    grad_norm: float


def zero_config(config: EngineConfig, num_micro: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run; every key that matters is set, none is left to default."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: we weigh losses by samples ourselves
        "gradient_accumulation_steps": num_micro,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "prescale_gradients": False,
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": False,
        },
        "checkpoint": {"tag_validation": "Fail"},
    }


class DeepSpeedEngine:
    """A model under ZeRO 1 or 2."""

    def __init__(self, model: nn.Module, config: EngineConfig, world: World, num_micro: int):
        _leave_out_shm_op()
        model.to(world.device)
        self._world, self._num_micro, self._global_batch = world, num_micro, config.global_batch
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(
                dist_backend="nccl" if world.device.type == "cuda" else "gloo",
                auto_mpi_discovery=False,
                verbose=False,
            )
            self._engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(model, config.optimizer),
                config=zero_config(config, num_micro),
                dist_init_required=False,
            )

    @property
    def model(self) -> nn.Module:
        """The bare model; under ZeRO 1 and 2 every rank holds all of it."""
        model = self._engine.module
        assert isinstance(model, nn.Module)
        return model

    def forward_backward(self, batch: Batch) -> StepOutput:
        """Add one micro-batch's gradient. The loss is a mean over the *global* batch.

        DeepSpeed averages over ranks and accumulation steps; the factor undoes that, so that every
        sample weighs 1 / global_batch however the batch is cut.
        """
        output: StepOutput = self._engine(to_device(batch, self._world.device))
        scale = self._world.size * self._num_micro / self._global_batch
        self._engine.backward(output.loss.sum() * scale)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return output

    def step(self, lr: float) -> StepInfo:
        """Update the weights after the last micro-batch."""
        optimizer: Any = self._engine.optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        applied = bool(self._engine.was_step_applied())
        return StepInfo(applied, float(norm) if norm is not None else float("nan"))

    @property
    def state_bytes(self) -> int:
        """About how many bytes `save` writes over all ranks: weights, fp32 copies, two moments."""
        return sum(p.numel() * (p.element_size() + 12) for p in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Write this rank's part of model and optimizer. All ranks must call it."""
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote with the same number of ranks. All ranks must call it."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise CheckpointError(f"DeepSpeed found nothing to load in {folder}")


def _leave_out_shm_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPUs at start-up.

    Training never calls it (it serves inference), building it takes a compiler and up to a minute,
    and without a compiler its constructor raises and the run would not start.
    """
    ds_torch_backend.build_shm_op = lambda: None


def describe() -> str:
    """One line on what runs the training."""
    return f"DeepSpeed {deepspeed.__version__}, torch {torch.__version__}, without the shm op"
