"""What is done to a model before it trains, and what is measured while it does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from configs.schema import MaskedConfig, ProfilerConfig
from pipeline.engine.build import build_engine
from pipeline.engine.distributed import World
from pipeline.engine.flops import FlopCounter, peak_flops
from pipeline.engine.profile import Profile
from pipeline.stage2.model import MaskedTransformer
from tests.engine.tiny import make_config
from tests.pipeline.test_stage2_model import LAYOUT, make, mixed


def gradients(world: World, **changes: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the small stage-2 model."""
    torch.manual_seed(0)
    config = MaskedConfig(
        pixels=("S2L2A",), targets=("LULC",), width=16, heads=2, encoder_depth=2, decoder_depth=2
    )
    model = MaskedTransformer(LAYOUT, config)
    engine = build_engine(model, make_config(global_batch=3, **changes), world, 1)
    loss = engine.forward_backward(make(mixed(np.random.default_rng(0)))).loss.get()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_no_bit_of_loss_and_gradients(world: World):
    loss, found = gradients(world)
    again, checkpointed = gradients(world, activation_checkpointing=True)
    assert loss == again
    assert found.keys() == checkpointed.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_activation_checkpointing_keeps_less_for_the_backward_pass(world: World):
    def kept_bytes(**changes: bool) -> int:
        sizes = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradients(world, **changes)
        return sum(sizes)

    assert kept_bytes(activation_checkpointing=True) < 0.7 * kept_bytes()


def test_a_linear_layer_costs_six_operations_per_weight_and_row():
    # Kaplan et al. 2020, section 2.1: 2 forward, 4 backward.
    layer, rows = nn.Linear(24, 40), torch.randn(7, 24, requires_grad=True)
    with FlopCounter() as counter:
        layer(rows).sum().backward()
    assert counter.total == 6 * 24 * 40 * 7


def test_the_peak_of_what_is_not_known_is_not_guessed(monkeypatch: pytest.MonkeyPatch):
    assert peak_flops(torch.device("cpu")) is None
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "Abacus": None}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak


def test_the_steps_asked_for_are_traced(tmp_path: Path):
    trace = Profile(tmp_path, 0, ProfilerConfig(first_step=2, num_steps=2))
    for step in range(6):
        trace.at(step)
        torch.ones(step + 1).cumsum(0) if step in (2, 3) else torch.ones(2).sin()
    events = json.loads((tmp_path / "profile" / "rank-000.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("aten::cumsum") == 2
    assert "aten::sin" not in names


def test_nothing_is_traced_unless_asked_for(tmp_path: Path):
    trace = Profile(tmp_path, 0, ProfilerConfig())
    for step in range(30):
        trace.at(step)
    trace.close()
    assert not list(tmp_path.iterdir())
