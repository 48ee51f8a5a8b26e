"""DeepSpeed ZeRO 0 to 3 as an engine of ours.

Its configuration is generated here, completely, from our schema: DeepSpeed accepts unknown keys in
silence and clips gradients by default, so nobody writes its JSON by hand.
"""

import contextlib
import functools
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

# Asked to guess, DeepSpeed warns of each accelerator that it does not find.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DS_LOG_LEVEL", "error")

import deepspeed

from configs.schema import EngineConfig, OffloadConfig
from pipeline.data.loader import Batch
from pipeline.engine import averages
from pipeline.engine.absorb import absorb
from pipeline.engine.base import Forward, HostValue, Piece, Scalars, StepInfo
from pipeline.engine.distributed import World, to_device
from pipeline.engine.mapped import MappedMemory
from pipeline.engine.objective import StepOutput
from pipeline.engine.optimizer import build_optimizer, set_rates, updating
from pipeline.engine.replicated import allocate_state, model_pieces, share, state_scalars
from pipeline.engine.zero import (
    Partitions,
    Replicas,
    ThirdStage,
    frozen_of_third_stage,
    saved_buffers,
)

MAX_BUCKET = 200_000_000
"""Numbers reduced or gathered at once: enough to keep links busy, 0.4 GB in bf16."""
_ALIGNMENT = 1024


def zero_config(config: EngineConfig, num_micro: int, num_parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run; every key that matters is set, none is left to default."""
    bucket = min(MAX_BUCKET, -(-num_parameters // _ALIGNMENT) * _ALIGNMENT)
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        # With Muon, every rank needs the whole gradient of a matrix.
        "reduce_scatter": config.optimizer.name != "muon",
        "round_robin_gradients": False,
        # Buffers of this size are allocated whatever the model's; by default they take 2 GB each.
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    zero |= _offload(config.offload)
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: we weigh losses by samples ourselves
        "gradient_accumulation_steps": num_micro,
        # Stage 0 measures the norm on its way to clip; nothing is ever clipped by the largest float.
        "gradient_clipping": config.optimizer.clip
        or (0.0 if config.zero_stage else torch.finfo(torch.float32).max),
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "prescale_gradients": False,
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        # Torch's fused AdamW runs on the host as well, and needs no compiler there.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "checkpoint": {"tag_validation": "Fail"},
    }


def _offload(config: OffloadConfig) -> dict[str, Any]:
    places = {"offload_optimizer": config.optimizer, "offload_param": config.parameters}
    pinned = torch.cuda.is_available()
    return {
        # DeepSpeed's own offload to NVMe trains something else (see docs/engine.md): ours is a kind of
        # host memory.
        key: {"device": "cpu", "pin_memory": pinned}
        for key, device in places.items()
        if device != "none"
    }


class DeepSpeedEngine:
    """A model under ZeRO."""

    def __init__(self, model: nn.Module, config: EngineConfig, world: World, num_micro: int):
        _leave_out_shm_op()
        model.to(world.device)
        self._world, self._config, self._num_micro = world, config, num_micro
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(
                dist_backend="nccl" if world.device.type == "cuda" else "gloo",
                auto_mpi_discovery=False,
                verbose=False,
            )
            self._engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(model, config.optimizer),
                config=zero_config(config, num_micro, sum(p.numel() for p in model.parameters())),
                dist_init_required=False,
            )
        stages = {0: Replicas, 1: Partitions, 2: Partitions, 3: ThirdStage}
        self._zero = stages[config.zero_stage](self._engine)
        self._zero.watch_norm(self._judge)
        self._memory = None
        if config.offload.optimizer == "nvme":
            assert config.offload.nvme_path is not None
            self._memory = MappedMemory(config.offload.nvme_path)
            assert not isinstance(self._zero, Replicas)  # refused by the schema
            self._zero.move(self._memory)
            self._make_moments(self._memory)
        self._skip, self._max_norm, self._norm, self._applied = False, 0.0, float("nan"), True

    @property
    def model(self) -> nn.Module:
        model = self._engine.module
        assert isinstance(model, nn.Module)
        return model

    def forward_backward(self, batch: Batch) -> Forward:
        """DeepSpeed averages over ranks and accumulation steps; the factor undoes that, so that every
        sample weighs 1 / global_batch however the batch is cut.
        """
        output: StepOutput = self._engine(to_device(batch, self._world.device))
        loss = output.loss.sum()
        promise = HostValue(loss)
        scale = self._world.size * self._num_micro / self._config.global_batch
        # ZeRO-1 and 2 orthogonalise as they reduce.
        with updating(self._config.optimizer, self._world.device):
            self._engine.backward(loss * scale)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return Forward.of(output, promise)

    def step(self, lr_factor: float, *, skip: bool = False, max_norm: float = 0.0) -> StepInfo:
        set_rates(self._engine.optimizer, lr_factor, self._config.optimizer)
        self._skip, self._max_norm = skip, max_norm
        self._norm, self._applied = float("inf"), False
        with updating(self._config.optimizer, self._world.device):
            self._engine.step()
        if self._applied and self._config.ema_decay:
            copy = self._memory.copy if self._memory else torch.clone
            averages.update(self._masters(), self._config.ema_decay, copy)
        return StepInfo(self._applied, self._norm)

    def pieces(self, *, owned: bool) -> Iterator[Piece]:
        replicated = list(saved_buffers(self.model))
        if self._config.zero_stage == 3:
            yield from frozen_of_third_stage(self.model, self._world.rank)
        else:
            replicated = list(model_pieces(self.model, trained=False))
        if self._config.zero_stage == 0:
            replicated += self._zero.pieces()
        else:
            yield from self._zero.pieces()
        yield from share(replicated, self._world.rank, self._world.size) if owned else replicated

    def scalars(self) -> Scalars:
        return state_scalars(self._zero.inner, self._zero.flats())

    def allocate(self, kinds: Mapping[str, set[str]], scalars: Scalars) -> None:
        for number, flat in enumerate(self._zero.flats()):
            # Parameters of one flat tensor are updated together and have the same tensors.
            common = set.union(*(kinds.get(name, set()) for name in self._zero.names(number)))
            room = functools.partial(self._zero.room, number)
            allocate_state(self._zero.inner, flat, common, scalars, room)
        if self._memory is not None:
            self._make_moments(self._memory)

    @torch.no_grad()
    def refresh(self) -> None:
        self._zero.refresh()

    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        absorb(self.model, stats, rows)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        if not self._config.ema_decay:
            yield
            return
        with averages.swapped(self._masters()):
            self.refresh()
            yield
        self.refresh()

    def whole_model(self) -> AbstractContextManager[None]:
        return self._zero.whole_model(self.model)

    def describe(self) -> str:
        return (
            f"DeepSpeed {deepspeed.__version__} ZeRO-{self._config.zero_stage}, torch "
            f"{torch.__version__}, without the shm op"
        )

    def _make_moments(self, memory: MappedMemory) -> None:
        """AdamW's, which its first update would make in RAM."""
        state: Any = self._zero.inner.state
        for flat in self._zero.flats():
            if not state[flat]:
                state[flat] = {k: memory.zeros_like(flat) for k in ("exp_avg", "exp_avg_sq")}
                state[flat]["step"] = torch.zeros(())

    def _masters(self) -> list[averages.Master]:
        return [(flat.data, self._zero.inner.state[flat]) for flat in self._zero.flats()]

    def _judge(self, norm: Tensor) -> bool:
        self._norm = float(norm)
        fine = 0 <= self._norm < float("inf") and not (0 < self._max_norm < self._norm)
        self._applied = fine and not self._skip
        return self._applied


def _leave_out_shm_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPUs at start-up.

    Training never calls it (it serves inference), building it takes a compiler and up to a minute,
    and without a compiler its constructor raises and the run would not start.
    """
    # By its full name: as an attribute of deepspeed.comm, `torch` may be torch itself.
    backend: Any = import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
