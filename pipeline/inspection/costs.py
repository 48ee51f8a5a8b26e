"""What training a model takes: parameters, operations, and memory under each ZeRO stage."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from configs.schema import EngineConfig
from pipeline.engine.build import use_checkpointing
from pipeline.engine.flops import BACKWARD_FACTOR, FlopCounter
from pipeline.engine.objective import StepOutput
from pipeline.inspection.example import Example

GPU_GB = (40, 80)
_WORKING_GB = 1.5
"""CUDA context, NCCL buffers and ZeRO's communication buckets, taken as one round sum."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one GPU under one ZeRO stage."""

    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def fits(self, gpu_gb: int) -> bool:
        return self.total + _WORKING_GB * 1e9 < gpu_gb * 1e9


@dataclass(frozen=True)
class Costs:
    """Of one run; FLOPs are of forward and backward of one sample."""

    parameters: dict[str, int]
    flops_per_sample: float
    activation_bytes: int
    memory: list[StageMemory]
    checkpoint_bytes: int

    @property
    def num_parameters(self) -> int:
        return sum(self.parameters.values())


def measure(example: Example, config: EngineConfig, world: int, micro_batch: int) -> Costs:
    """Run the example on the meta device and add up; with activation checkpointing it is changed so.

    The memory of ZeRO follows Rajbhandari et al. 2020, section 3: with bf16, 2 bytes per parameter for
    weights and 4 for gradients added up in fp32, 12 for fp32 weights and two moments; in fp32 4, 4 and
    12. An average of the weights takes 4 more.
    """
    model, critic = example.model, example.critic
    if config.precision == "bf16":
        model = model.to(torch.bfloat16)
        critic = critic and critic.to(torch.bfloat16)
    # Without gradients: a head that makes its own while going forward would count them twice.
    with torch.no_grad(), FlopCounter() as counter:
        output: StepOutput = model(example.batch)
        if critic is not None:
            critic(dict(output.judged))
    activations = _saved_bytes(model, example)
    if config.activation_checkpointing:
        num_blocks = use_checkpointing(model)
        kept = _saved_bytes(model, example)
        # Going backward, one block at a time has what the forward pass did not keep.
        activations = kept + (activations - kept) // max(1, num_blocks)
    parameters = parts(model)
    if critic is not None:
        parameters["critic"] = sum(p.numel() for p in critic.parameters())
    total = sum(parameters.values())
    per_weight = 2 if config.precision == "bf16" else 4
    average = 4 if config.ema_decay else 0
    memory = []
    for stage in (0, 1, 2, 3):
        # Stage 0 in fp32 updates the weights themselves; the others keep an fp32 copy of them.
        master = 0 if stage == 0 and config.precision == "fp32" else 4
        share = [1 if stage < first else world for first in (3, 2, 1)]
        memory.append(
            StageMemory(
                stage,
                weights=total * per_weight // share[0],
                gradients=total * 4 // share[1],
                optimizer=total * (8 + master + average) // share[2],
                activations=activations,
            )
        )
    return Costs(
        parameters=parameters,
        flops_per_sample=BACKWARD_FACTOR * counter.total / micro_batch,
        activation_bytes=activations,
        memory=memory,
        checkpoint_bytes=total * (12 + average),
    )


def parts(model: nn.Module) -> dict[str, int]:
    """Parameters per part of the model, in its order; what lies in no part comes last."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def _saved_bytes(model: nn.Module, example: Example) -> int:
    """The most that is kept at a time: a critic's turn comes when the model's backward pass is over."""
    kept = _SavedBytes(model)
    with saved_tensors_hooks(kept.pack, lambda t: t):
        output: StepOutput = model(example.batch)
    if example.critic is None:
        return kept.total
    of_critic = _SavedBytes(example.critic)
    with saved_tensors_hooks(of_critic.pack, lambda t: t):
        example.critic(dict(output.judged))
    return max(kept.total, of_critic.total)


class _SavedBytes:
    """Adds up what the forward pass keeps for the backward pass, weights left out."""

    def __init__(self, model: nn.Module):
        self._seen = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
        # Storages are kept, or one that is freed could lend its name to the next.
        self._storages: list[torch.UntypedStorage] = []
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._storages.append(storage)
            self.total += storage.nbytes()
        return tensor
