"""Where ZeRO keeps the pieces of a model's state, stage by stage.

DeepSpeed 0.19 flattens parameters into groups and gives each rank a stretch of every group. Its own
checkpoints store these stretches as they are, so that another number of ranks cannot read them
without a conversion that knows Adam's two moments and nothing else. Here each stretch is cut at the
borders of the parameters, which have names. All knowledge of DeepSpeed's insides is in this file:

    stages 1, 2   `_hp_mapping` of a parameter: which of its elements lie where in the flat fp32
                  partition of its group; the optimizer's state has the partition's shape
    stage 3       `grad_position`: a parameter is cut evenly over the ranks, with padding at the end
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.utils import combine_grad_norm_groups, get_global_norm_of_tensors
from torch import Tensor, nn

from pipeline.engine.base import Piece
from pipeline.engine.mapped import MappedMemory
from pipeline.engine.replicated import state_tensors, whole

MOMENTUM = "momentum_buffer"
Judge = Callable[[Tensor], bool]
"""Looks at the norm of the gradient; where it says no, the step is to be dropped."""


class Replicas:
    """Stage 0: every rank holds everything."""

    def __init__(self, engine: Any):
        self._engine, self._norm = engine, torch.tensor(torch.nan)
        self._trained = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}

    @property
    def inner(self) -> torch.optim.Optimizer:
        return self._engine.optimizer

    def flats(self) -> list[Tensor]:
        return list(self._trained.values())

    def names(self, number: int) -> list[str]:
        return [list(self._trained)[number]]

    def room(self, number: int, _: str) -> Tensor:
        """A tensor of the optimizer's state for one group, of zeros."""
        return torch.zeros_like(self.flats()[number], requires_grad=False)

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self._trained.items():
            yield whole(f"weights/{name}", parameter.data)
            for key, tensor in state_tensors(self.inner.state.get(parameter, {}), parameter):
                yield whole(f"{key}/{name}", tensor)

    def refresh(self) -> None:
        """The pieces are the weights themselves."""

    def watch_norm(self, judge: Judge) -> None:
        update = self.inner.step

        def step() -> None:
            # DeepSpeed has clipped already; what a norm that is not finite made of the gradients goes
            # away with them.
            if judge(self._norm):
                update()

        clip = self._engine.clip_fp32_gradients

        def measured() -> None:
            gradients = [p.grad for p in self._trained.values() if p.grad is not None]
            self._norm = nn.utils.get_total_norm(gradients)
            clip()

        self._engine.clip_fp32_gradients = measured
        setattr(self.inner, "step", step)  # noqa: B010 (another signature)

    def whole_model(self, _: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


class Partitions:
    """The flat fp32 partitions of stages 1 and 2, and what of each parameter lies in them."""

    def __init__(self, engine: Any):
        self._optimizer = engine.optimizer
        self._zeros_like: Callable[[Tensor], Tensor] = torch.zeros_like
        if isinstance(self._optimizer, BF16_Optimizer):  # stage 1 in bf16
            self._groups = self._optimizer.bf16_groups
            self._flats = self._optimizer.fp32_groups_flat_partition
        else:
            self._groups = self._optimizer.bit16_groups
            self._flats = self._optimizer.single_partition_of_fp32_groups

    @property
    def inner(self) -> torch.optim.Optimizer:
        return self._optimizer.optimizer

    def flats(self) -> list[Tensor]:
        """The tensors that the optimizer updates."""
        return list(self._flats)

    def names(self, number: int) -> list[str]:
        """The parameters of one group."""
        return [self._optimizer.param_names[p] for p in self._groups[number]]

    def room(self, number: int, kind: str) -> Tensor:
        """A tensor of the optimizer's state for one group, of zeros."""
        flat = self._flats[number]
        if kind != MOMENTUM:
            return self._zeros_like(flat.detach())
        whole_numel = sum(p.numel() for p in self._optimizer.params_in_partition[number])
        return flat.new_zeros(whole_numel)

    def pieces(self) -> Iterator[Piece]:
        for number in range(len(self._flats)):
            yield from self._momenta(number)
        for flat, group in zip(self._flats, self._groups, strict=True):
            state = self.inner.state.get(flat, {})
            tensors = [("weights", flat.data), *state_tensors(state, flat)]
            tensors = [(key, tensor) for key, tensor in tensors if key != MOMENTUM]
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is None:  # all of it lies with other ranks
                    continue
                here, there = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
                name, shape = self._optimizer.param_names[parameter], tuple(parameter.shape)
                for key, tensor in tensors:
                    view = tensor.narrow(0, here.start, here.numel)
                    yield Piece(f"{key}/{name}", shape, there.start, view)

    def _momenta(self, number: int) -> Iterator[Piece]:
        """Muon orthogonalises whole matrices: momenta of all that a partition has any part of."""
        momentum = self.inner.state.get(self._flats[number], {}).get(MOMENTUM)
        if momentum is None:
            return
        begin = 0
        for parameter in self._optimizer.params_in_partition[number]:
            view = momentum.narrow(0, begin, parameter.numel())
            name = self._optimizer.param_names[parameter]
            yield Piece(f"{MOMENTUM}/{name}", tuple(parameter.shape), 0, view)
            begin += parameter.numel()

    def refresh(self) -> None:
        self._optimizer.update_lp_params()

    def move(self, memory: MappedMemory) -> None:
        """Put the fp32 weights there, and whatever `room` makes from now on."""
        self._zeros_like = memory.zeros_like
        for flat, group in zip(self._flats, self._groups, strict=True):
            flat.data = memory.copy(flat.data)
            for parameter in group:
                if parameter._hp_mapping is not None:  # a view that would keep the former memory
                    address = parameter._hp_mapping.get_hp_fragment_address()
                    view = flat.data.narrow(0, address.start, address.numel)
                    parameter._hp_mapping.hp_fragment = view

    def watch_norm(self, judge: Judge) -> None:
        if isinstance(self._optimizer, BF16_Optimizer):
            _wrap(self._optimizer, "get_grads_for_norm", lambda found: _judged(found, judge))
        else:
            _wrap(
                self._optimizer,
                "scaled_global_norm",
                lambda norm: norm if judge(norm) else torch.full_like(norm, torch.inf),
            )
        optimizer: Any = self._optimizer
        if getattr(optimizer, "cpu_offload", False):
            # In bf16 DeepSpeed keeps the gradient of a dropped step, and would add the next one to it.
            _wrap(optimizer, "reset_cpu_buffers", lambda _: optimizer.averaged_gradients.clear())

    def whole_model(self, _: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


class ThirdStage:
    """Stage 3: the weights themselves are cut over the ranks."""

    def __init__(self, engine: Any):
        self._optimizer, self._rank = engine.optimizer, engine.global_rank
        self._zeros_like: Callable[[Tensor], Tensor] = torch.zeros_like

    @property
    def inner(self) -> torch.optim.Optimizer:
        return self._optimizer.optimizer

    def flats(self) -> list[Tensor]:
        return list(self._optimizer.fp32_partitioned_groups_flat)

    def names(self, number: int) -> list[str]:
        return [self._optimizer.param_names[p] for p in self._optimizer.fp16_groups[number]]

    def room(self, number: int, _: str) -> Tensor:
        """A tensor of the optimizer's state for one group, of zeros."""
        return self._zeros_like(self.flats()[number].detach())

    def pieces(self) -> Iterator[Piece]:
        optimizer = self._optimizer
        for number, group in enumerate(optimizer.fp16_groups):
            for parameter in group:
                index, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
                assert index == number
                flat = optimizer.fp32_partitioned_groups_flat[index]
                start = self._rank * length
                count = max(0, min(length, parameter.ds_numel - start))
                if not count:
                    continue
                name, shape = optimizer.param_names[parameter], tuple(parameter.ds_shape)
                tensors = [
                    ("weights", flat.data),
                    *state_tensors(self.inner.state.get(flat, {}), flat),
                ]
                for key, tensor in tensors:
                    yield Piece(f"{key}/{name}", shape, start, tensor.narrow(0, offset, count))

    def refresh(self) -> None:
        optimizer = self._optimizer
        optimizer._partition_all_parameters()
        for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            optimizer.fp16_partitioned_groups_flat[number].data.copy_(flat.data)
            optimizer._unflatten_partitioned_parameters(number)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def move(self, memory: MappedMemory) -> None:
        """Put the fp32 weights there, and whatever `room` makes from now on."""
        self._zeros_like = memory.zeros_like
        for flat in self.flats():
            flat.data = memory.copy(flat.data)

    def watch_norm(self, judge: Judge) -> None:
        optimizer, groups = self._optimizer, []
        measure, orthogonalise = (
            optimizer._get_norm_groups,
            optimizer._apply_muon_to_accumulated_grads,
        )

        def look() -> None:
            # DeepSpeed looks behind Muon, whose momentum would by then have learnt from the gradient.
            nonlocal groups
            groups = measure()
            if not judge(combine_grad_norm_groups(groups)):
                groups = [torch.full_like(groups[0], torch.inf)]
            elif optimizer.use_muon:
                orthogonalise()
                groups = measure()

        optimizer._apply_muon_to_accumulated_grads = look
        optimizer._get_norm_groups = lambda: groups

    def whole_model(self, model: nn.Module) -> AbstractContextManager[None]:
        return deepspeed.zero.GatheredParameters(list(model.parameters()))


def frozen_of_third_stage(model: nn.Module, rank: int) -> Iterator[Piece]:
    """Weights that are not trained, under stage 3: cut like the others, and in no optimizer."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            cut: Any = parameter
            length = cut.ds_tensor.numel()
            count = max(0, min(length, cut.ds_numel - rank * length))
            if count:
                view = cut.ds_tensor.data.view(-1).narrow(0, 0, count)
                yield Piece(f"weights/{name}", tuple(cut.ds_shape), rank * length, view)


def saved_buffers(model: nn.Module) -> Iterator[Piece]:
    """Buffers that belong to the model's state."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            yield whole(f"buffers/{name}", buffer)


def _judged(found: Any, judge: Judge) -> Any:
    """What BF16_Optimizer is given to take the norm of: the gradients, or one that is not finite."""
    if not isinstance(found, tuple):  # asked for clipping, when the norm is known
        return found
    gradients, experts = found
    if judge(get_global_norm_of_tensors(input_tensors=gradients)):
        return found
    return [torch.full_like(gradients[0], torch.inf)], experts


def _wrap(owner: Any, method: str, then: Callable[[Any], Any]) -> None:
    """Pass what a method returns through `then`."""
    original = getattr(owner, method)
    setattr(owner, method, lambda *args, **kwargs: then(original(*args, **kwargs)))
