"""Which weights are decayed, at which rate they learn, and what is said of optimizers not there."""

import sys
from types import ModuleType
from typing import Literal

import pytest
import torch
from torch import nn

from configs import ConfigError
from configs.registry import modality
from configs.schema import DiffusionConfig, MaskedConfig, OptimizerConfig, TokenizerConfig
from pipeline.engine.build import use_fused_norms
from pipeline.engine.optimizer import (
    _depths,
    build_optimizer,
    is_decayed,
    parameter_groups,
    set_rates,
)
from pipeline.stage1.tokenizer import Tokenizer
from pipeline.stage2.model import MaskedTransformer
from tests.pipeline.test_stage2_model import LAYOUT

DEPTH = 3


@pytest.fixture(scope="module")
def stage2() -> MaskedTransformer:
    config = MaskedConfig(
        pixels=("S2L2A",),
        targets=("LULC",),
        width=16,
        heads=2,
        encoder_depth=DEPTH,
        decoder_depth=2,
    )
    return MaskedTransformer(LAYOUT, config)


def by_parameter(model: nn.Module, config: OptimizerConfig, key: str) -> dict[str, float]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g[key] for g in parameter_groups(model, config) for p in g["params"]}


def test_norms_biases_and_embeddings_are_not_decayed(stage2: MaskedTransformer):
    found = by_parameter(stage2, OptimizerConfig(weight_decay=0.3), "weight_decay")
    assert found.keys() == {n for n, _ in stage2.named_parameters()}
    plain = {n for n, decay in found.items() if decay == 0}
    for module_name, module in stage2.named_modules():
        own = {f"{module_name}.{n}" for n, _ in module.named_parameters(recurse=False)}
        if isinstance(module, nn.LayerNorm | nn.Embedding):
            assert own <= plain
        elif isinstance(module, nn.Linear):
            assert own & plain == {f"{module_name}.bias"} & own
            assert found[f"{module_name}.weight"] == 0.3
    assert "mask_embed" in plain


def test_without_layer_decay_all_learn_alike(stage2: MaskedTransformer):
    assert set(by_parameter(stage2, OptimizerConfig(), "lr_scale").values()) == {1.0}


def test_layer_decay_counts_the_blocks_from_the_top(stage2: MaskedTransformer):
    found = by_parameter(stage2, OptimizerConfig(layer_decay=0.5), "lr_scale")
    top = DEPTH + 2 + 1
    expected = {
        "code_embed.weight": top,
        "stream_embed.weight": top,
        "mask_embed": top,
        "patch_proj.S.weight": top,
        "encoder.0.norm1.weight": top - 1,
        "encoder.2.norm1.weight": top - 3,
        "decoder.0.mlp.fc1.weight": 2,
        "decoder.1.norm2.bias": 1,
        "decoder_norm.weight": 0,
    }
    assert {n: found[n] for n in expected} == {n: 0.5**below for n, below in expected.items()}


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["encoder.0.w", "encoder.1.w", "decoder.0.w", "head.w"], [1, 2, 3, 4]),
        (["encoder.blocks.0.w", "encoder.blocks.1.w", "decoder.blocks.0.w"], [1, 2, 3]),
        (["pixel_encoder.0.w", "pixel_encoder.1.w", "pixel_decoder.0.w"], [1, 2, 3]),
        (["blocks.0.w", "blocks.10.w", "norm.weight"], [1, 11, 12]),
        (["patch_embed.w", "pos_embed", "blocks.0.w"], [0, 0, 1]),
        (["encoder_norm.weight", "encoder.0.w"], [2, 1]),
    ],
)
def test_depths_follow_the_names_of_modules(names: list[str], depths: list[int]):
    assert _depths(names) == dict(zip(names, depths, strict=True))


def test_groups_come_in_the_same_order_whatever_is_decayed_first(stage2: MaskedTransformer):
    config = OptimizerConfig(layer_decay=0.9)
    first, again = parameter_groups(stage2, config), parameter_groups(stage2, config)
    assert [[id(p) for p in g["params"]] for g in first] == [
        [id(p) for p in g["params"]] for g in again
    ]
    assert [g["lr_scale"] for g in first] == sorted(g["lr_scale"] for g in first)


def test_frozen_weights_are_in_no_group():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert [len(g["params"]) for g in parameter_groups(model, OptimizerConfig())] == [1]


def test_rates_are_peak_times_factor_times_scale(stage2: MaskedTransformer):
    config = OptimizerConfig(lr=0.1, layer_decay=0.5)
    optimizer = build_optimizer(stage2, config)
    set_rates(optimizer, 0.25, config)
    rates = sorted({g["lr"] for g in optimizer.param_groups}, reverse=True)
    assert rates == pytest.approx([0.025 * 0.5**k for k in range(DEPTH + 4)])


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw(stage2: MaskedTransformer):
    config = OptimizerConfig(name="muon", lr=0.02, adam_lr=0.001, momentum=0.9, weight_decay=0.1)
    optimizer = build_optimizer(stage2, config)
    names = {id(p): n for n, p in stage2.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            hidden = parameter.ndim == 2 and "embed" not in name and "patch_proj" not in name
            assert group["use_muon"] is hidden is parameter.use_muon
            assert group["weight_decay"] == (0.1 if is_decayed(name, parameter) else 0.0)
    assert not names
    set_rates(optimizer, 0.5, config)
    assert {(g["use_muon"], g["lr"]) for g in optimizer.param_groups} == {
        (True, 0.01), (False, 0.0005),
    }  # fmt: skip


@pytest.mark.parametrize("decoder", ["vit", "diffusion"])
def test_muon_leaves_what_meets_the_pixels_to_adamw(decoder: Literal["vit", "diffusion"]):
    small = DiffusionConfig(network="uvit", width=32, depth=1, heads=2)
    shape = TokenizerConfig(width=32, heads=2, patch_px=4, decoder=decoder, diffusion=small)
    model = Tokenizer(modality("S2L2A"), shape, 16)
    build_optimizer(model, OptimizerConfig(name="muon"))
    matrices = {n: vars(p)["use_muon"] for n, p in model.named_parameters() if p.ndim == 2}
    ends = {n for n, by_muon in matrices.items() if not by_muon}
    ours = {"vit": {"to_pixels"}, "diffusion": {"from_patches", "to_patches"}}[decoder]
    steps = {n for n in ends if "step_embed" in n}
    assert {n.split(".")[-2] for n in ends - steps} == {"proj"} | ours
    assert matrices["encoder.to_latent.weight"]


def test_muon_is_not_clipped_and_others_are():
    assert OptimizerConfig(name="muon").clip == 0
    assert OptimizerConfig(clip_grad_norm=0.7).clip == 0.7


@pytest.fixture
def no_apex(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "apex"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apex", None)


def ask_for_apex_adam() -> None:
    build_optimizer(nn.Linear(2, 2), OptimizerConfig(name="apex_adam"))


@pytest.mark.parametrize("ask", [ask_for_apex_adam, lambda: use_fused_norms(nn.LayerNorm(2))])
def test_apex_that_is_missing_is_named_with_where_to_get_it(no_apex: None, ask):
    with pytest.raises(ConfigError, match=r"not installed .*github\.com/NVIDIA/apex"):
        ask()


def test_the_apex_of_pypi_is_told_from_nvidias(monkeypatch: pytest.MonkeyPatch):
    web_toolkit = ModuleType("apex")
    web_toolkit.__file__ = "/somewhere/apex/__init__.py"
    monkeypatch.setitem(sys.modules, "apex", web_toolkit)
    with pytest.raises(ConfigError, match=r"/somewhere/apex/__init__\.py is not NVIDIA Apex"):
        ask_for_apex_adam()


def test_nvidias_apex_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch):
    apex, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    apex.__path__ = []
    made = {}

    def fused_adam(groups, **settings):
        made.update(settings, num_groups=len(groups))
        return "FusedAdam"

    optimizers.FusedAdam = fused_adam  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "apex", apex)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    config = OptimizerConfig(name="apex_adam", lr=0.2)
    assert build_optimizer(nn.Linear(2, 2), config) == "FusedAdam"
    assert made == {
        "lr": 0.2, "betas": (0.9, 0.95), "eps": 1e-8, "adam_w_mode": True, "num_groups": 2,
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may be able to build it")
def test_deepspeeds_fused_adam_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match=r"needs a GPU.*ds_report"):
        build_optimizer(nn.Linear(2, 2), OptimizerConfig(name="deepspeed_adam"))
