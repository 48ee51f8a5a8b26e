"""Floating-point operations of a model, counted from its matrix products, and what hardware can do."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.loader import Batch
from pipeline.engine.distributed import to_device

PEAK_TFLOPS = {
    # Dense bf16 tensor-core peaks from the makers' data sheets, by a part of the device's name.
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 149.7,
    "L40S": 362.0,
    "L40": 181.0,
    "A10": 125.0,
    "V100": 125.0,
    "MI300X": 1307.4,
    "MI250X": 383.0,
}


def peak_flops(device: torch.device) -> float | None:
    """Peak operations per second of a device in bf16; None where it is not known: no guess."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [part for part in PEAK_TFLOPS if part in name]
    return PEAK_TFLOPS[max(known, key=len)] * 1e12 if known else None


BACKWARD_FACTOR = 3
"""Forward and backward together, as a multiple of forward: each product has two in its gradient.

What activation checkpointing computes a second time is not counted (model FLOPs, Chowdhery et al. 2022,
appendix B).
"""


class FlopCounter:
    """Counts what runs inside: linear layers, attention and convolutions."""

    def __init__(self) -> None:
        self._mode = FlopCounterMode(display=False)

    def __enter__(self) -> "FlopCounter":
        self._mode.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._mode.__exit__(*args)

    @property
    def total(self) -> int:
        return self._mode.get_total_flops()


@torch.no_grad()
def count_flops(model: nn.Module, batch: Batch, device: torch.device) -> float:
    """Operations of one sample, forward and backward, from one batch as it comes."""
    devices = [device] if device.type == "cuda" else []
    # The extra pass must not shift the random numbers of the training that follows.
    with torch.random.fork_rng(devices), FlopCounter() as counter:
        output = model(to_device(batch, device))
    return BACKWARD_FACTOR * counter.total / max(1.0, float(output.sums["count"]))
