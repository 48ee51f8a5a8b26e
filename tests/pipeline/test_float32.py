"""Buffers that must stay float32 do, whoever casts or moves the model around them."""

import copy

import pytest
import torch
from torch import nn

from pipeline.layers.float32 import Float32Buffers


class Scaler(Float32Buffers):
    mean: torch.Tensor
    count: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([3163.0, 0.1]), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("nothing", None)
        self.proj = nn.Linear(2, 2)
        self.proj.seen = nn.Buffer(torch.ones(1))


def wrapped() -> tuple[nn.Module, Scaler]:
    scaler = Scaler()
    return nn.Sequential(nn.Linear(2, 2), scaler), scaler


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double])
def test_a_cast_of_the_whole_model_passes_its_own_buffers_by(cast):
    model, scaler = wrapped()
    cast(model)
    for inner in (scaler, copy.deepcopy(scaler)):
        assert inner.mean.dtype == torch.float32
        assert inner.mean.tolist() == [3163.0, pytest.approx(0.1, rel=1e-7)]
        assert inner.count.dtype == torch.int64
        assert inner.proj.weight.dtype == inner.proj.seen.dtype != torch.float32


def test_a_move_takes_them_along_with_or_without_a_cast():
    model, scaler = wrapped()
    model.to("meta", torch.bfloat16)
    assert (scaler.mean.device.type, scaler.mean.dtype) == ("meta", torch.float32)
    model.to_empty(device="cpu")
    assert (scaler.mean.device.type, scaler.mean.dtype) == ("cpu", torch.float32)
