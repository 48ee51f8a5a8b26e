"""The engine without DeepSpeed: a replica per rank, gradients summed, one optimizer.

A few lines of torch whose every number can be followed. The reference that ZeRO is tested against,
and all that one GPU needs.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.schema import EngineConfig
from pipeline.data.loader import Batch
from pipeline.engine import averages
from pipeline.engine.absorb import absorb
from pipeline.engine.base import Forward, HostValue, Piece, Scalars, StepInfo
from pipeline.engine.distributed import World, to_device
from pipeline.engine.objective import StepOutput
from pipeline.engine.optimizer import build_optimizer, set_rates, updating
from pipeline.engine.replicated import (
    allocate_state,
    model_pieces,
    share,
    state_scalars,
    state_tensors,
    whole,
)


class PlainEngine:
    """One replica of the model. In bf16, matrix products run in bf16 and the weights stay fp32."""

    def __init__(self, model: nn.Module, config: EngineConfig, world: World):
        self._model, self._config, self._world = model.to(world.device), config, world
        self._optimizer = build_optimizer(model, config.optimizer)
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    @property
    def model(self) -> nn.Module:
        return self._model

    def forward_backward(self, batch: Batch) -> Forward:
        with self._autocast():
            output: StepOutput = self._model(to_device(batch, self._world.device))
        loss = output.loss.sum()
        promise = HostValue(loss)
        (loss / self._config.global_batch).backward()
        return Forward.of(output, promise)

    @torch.no_grad()
    def step(self, lr_factor: float, *, skip: bool = False, max_norm: float = 0.0) -> StepInfo:
        parameters = list(self._trained.values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._sum(gradients)
        norm = float(nn.utils.get_total_norm(gradients))
        applied = not skip and norm < float("inf") and not (0 < max_norm < norm)
        if applied:
            if limit := self._config.optimizer.clip:
                nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm))
            set_rates(self._optimizer, lr_factor, self._config.optimizer)
            with updating(self._config.optimizer, self._world.device):
                self._optimizer.step()
            if self._config.ema_decay:
                averages.update(self._masters(), self._config.ema_decay)
        self._optimizer.zero_grad(set_to_none=True)
        return StepInfo(applied, norm)

    def pieces(self, *, owned: bool) -> Iterator[Piece]:
        found = list(model_pieces(self._model, trained=True))
        for name, parameter in self._trained.items():
            for key, tensor in state_tensors(self._optimizer.state.get(parameter, {}), parameter):
                found.append(whole(f"{key}/{name}", tensor))
        yield from share(found, self._world.rank, self._world.size) if owned else found

    def scalars(self) -> Scalars:
        return state_scalars(self._optimizer, list(self._trained.values()))

    def allocate(self, kinds: Mapping[str, set[str]], scalars: Scalars) -> None:
        for name, parameter in self._trained.items():
            allocate_state(self._optimizer, parameter, kinds.get(name, set()), scalars)

    def refresh(self) -> None:
        """The pieces are the weights themselves."""

    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        absorb(self._model, stats, rows)

    def averaged(self) -> AbstractContextManager[None]:
        if not self._config.ema_decay:
            return nullcontext()
        return averages.swapped(self._masters())

    def whole_model(self) -> AbstractContextManager[None]:
        return nullcontext()

    def describe(self) -> str:
        return f"plain torch {torch.__version__}"

    def _masters(self) -> list[averages.Master]:
        return [(p.data, self._optimizer.state[p]) for p in self._trained.values()]

    def _autocast(self) -> AbstractContextManager[object]:
        if self._config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._world.device.type, torch.bfloat16)

    def _sum(self, gradients: list[Tensor]) -> None:
        if self._world.size == 1 or not gradients:
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))
