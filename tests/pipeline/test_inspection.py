"""What `inspect` says of every configuration, against arithmetic and against the real thing."""

import json
from pathlib import Path

import pytest
import torch

from configs.load import load_config
from configs.registry import BandStatistics
from configs.schema import FSQConfig, FusionRunConfig, Stage1Config, Stage2Config
from pipeline.__main__ import main
from pipeline.fusion.model import LateFusion
from pipeline.inspection.costs import StageMemory, measure, parts
from pipeline.inspection.example import build_example
from pipeline.stage2.model import MaskedTransformer

ROOT = Path(__file__).parents[2]
RUNS = sorted(
    str(p.relative_to(ROOT))
    for kind in ("stage1", "stage2", "fusion", "multimae")
    for p in ROOT.glob(f"configs/{kind}/*")
)


def facts(capsys, *argv: str) -> dict:
    assert main(["inspect", "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without data sets: what is inspected has to be assumed."""
    monkeypatch.chdir(tmp_path)


# Batches of 6 windows, to learn three places by heart, are for one rank.
PLACES = [(c, w) for c in RUNS for w in (1, 8) if w == 1 or not c.endswith("overfit.yaml")]


@pytest.mark.parametrize(("config", "world"), PLACES)
def test_every_training_configuration_passes(config, world, capsys):
    found = facts(capsys, "--config", config, "--world", str(world))
    assert found["ranks"] == world
    assert found["parameters"] == sum(found["parts"].values()) > 0
    assert found["steps"] > 0
    assert found["tflop_per_step"] > 0
    # Each stage keeps at most as much on a GPU as the one before it.
    totals = [m["total"] for m in found["memory"]]
    assert totals[1:] == sorted(totals[1:], reverse=True)


def test_a_person_is_shown_tables(capsys):
    assert main(["inspect", "--config", "configs/stage2/xl.yaml", "--world", "8"]) == 0
    shown = capsys.readouterr().out
    for text in ("fits 40 GB", "fits 80 GB", "parameters", "code_embed", "zero_stage: 2"):
        assert text in shown
    # 2.9 billion parameters in bf16: too many for one GPU of 40 GB, not for eight of them.
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert rows["0"].count("no") == 1
    assert rows["0"].count("yes") == 1
    assert rows["3"].count("yes") == 2


def test_numbers_are_those_of_the_model_that_is_trained():
    config = load_config("configs/stage2/small.yaml")
    assert isinstance(config, Stage2Config)
    example = build_example(config, 2)
    assert isinstance(example.model, MaskedTransformer)
    real = MaskedTransformer(example.model.layout, config.masked)
    assert parts(example.model) == parts(real)
    costs = measure(example, config.engine, world=4, micro_batch=2)
    total = sum(p.numel() for p in real.parameters())
    assert costs.memory[2] == StageMemory(
        2, total * 4, total * 4 // 4, total * 12 // 4, costs.activation_bytes
    )
    assert costs.checkpoint_bytes == total * 12
    # The products with weights are most of it: 6 operations per parameter and token (Kaplan et al.
    # 2020, section 2.1), the table of codes aside, which is a product for target tokens only.
    masked = config.masked
    encoder, decoder = (
        sum(p.numel() for p in m.parameters()) for m in (real.encoder, real.decoder)
    )
    heads = real.code_embed.weight.numel() / len(real.layout.targets) * masked.num_target_tokens
    products = 6 * (encoder * masked.num_input_tokens + decoder * masked.num_target_tokens + heads)
    assert costs.flops_per_sample == pytest.approx(products, rel=0.2)


@pytest.mark.parametrize("combine", ["concat", "mean", "gated"])
def test_late_fusion_has_the_parameters_of_the_model_that_is_trained(combine: str):
    config = load_config("configs/fusion/small.yaml", [f"fusion.combine={combine}"])
    assert isinstance(config, FusionRunConfig)
    example = build_example(config, 2)
    assert isinstance(example.model, LateFusion)
    # Tokenizers are taken to be the default ones: as many latent channels as FSQ has levels.
    assert set(example.model.latent_widths.values()) == {len(FSQConfig().levels)}
    real = LateFusion(
        example.model.layout, config.masked, config.fusion, example.model.latent_widths
    )
    costs = measure(example, config.engine, 1, 2)
    assert costs.parameters == parts(real)
    # Input tokens pass their own MLPs, target tokens the others; pooling and heads come on top.
    own, after = (sum(p.numel() for p in m.parameters()) for m in (real.token_mlps, real.mlps))
    budget = config.masked
    least = 6 * (own * budget.num_input_tokens + after * budget.num_target_tokens)
    assert least < costs.flops_per_sample
    masked = measure(build_example(as_stage2(config), 2), config.engine, 1, 2)
    assert costs.flops_per_sample < masked.flops_per_sample


def as_stage2(config: FusionRunConfig) -> Stage2Config:
    """The transformer over the same streams."""
    values = config.model_dump(exclude={"fusion", "kind"})
    return Stage2Config.model_validate(values | {"kind": "stage2"})


def test_a_critic_is_trained_as_well():
    argv = ["tokenizer.crop_px=24"]
    plain, with_critic = (
        load_config("configs/stage1/compare.yaml", [*argv, f"tokenizer.decoder={decoder}"])
        for decoder in ("vit", "gan")
    )
    assert isinstance(plain, Stage1Config)
    assert isinstance(with_critic, Stage1Config)
    alone = measure(build_example(plain, 4), plain.engine, 1, 4)
    example = build_example(with_critic, 4)
    both = measure(example, with_critic.engine, 1, 4)
    assert example.critic is not None
    size = sum(p.numel() for p in example.critic.parameters())
    assert both.parameters == {**alone.parameters, "critic": size}
    assert both.checkpoint_bytes - alone.checkpoint_bytes == 12 * size
    assert both.flops_per_sample > 1.05 * alone.flops_per_sample


def test_checkpointing_trades_activations_for_nothing_in_flops():
    config = load_config("configs/stage2/base.yaml")
    assert isinstance(config, Stage2Config)
    without = measure(build_example(config, 32), config.engine, 1, 32)
    engine = config.engine.model_copy(update={"activation_checkpointing": True})
    with_it = measure(build_example(config, 32), engine, 1, 32)
    assert with_it.activation_bytes < 0.3 * without.activation_bytes
    # Of 24 blocks one is worked on at a time.
    assert with_it.activation_bytes > without.activation_bytes / 24
    assert with_it.flops_per_sample == without.flops_per_sample


def test_activations_are_what_a_real_forward_pass_keeps():
    config = load_config("configs/stage1/small.yaml", ["tokenizer.crop_px=24"])
    assert isinstance(config, Stage1Config)
    example = build_example(config, 3)
    estimated = measure(example, config.engine, 1, 3).activation_bytes
    from pipeline.stage1.tokenizer import Teaching, Tokenizer

    assert isinstance(example.model, Tokenizer)
    statistics = BandStatistics((0.0,) * 12, (1.0,) * 12)
    real = Tokenizer(example.model.modality, config.tokenizer, 24, Teaching(statistics))
    seen: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        valid = torch.ones(3, 24, 24, dtype=torch.bool)
        real({"x": torch.zeros(3, 12, 24, 24), "valid": valid, "seed": torch.arange(3)})
    weights = {p.untyped_storage().data_ptr() for p in (*real.parameters(), *real.buffers())}
    measured = sum(s.nbytes() for at, s in seen.items() if at not in weights)
    # The CPU's fused attention keeps less than attention written out.
    assert 0.5 * estimated < measured <= 1.05 * estimated


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "configs/shards/synthetic.yaml"], "only training runs"),
        (["--config", "configs/stage1/small.yaml", "modality=captions"], "is a text modality"),
        (["--config", "configs/stage2/small.yaml", "--world", "17"], "cannot be cut into"),
    ],
)
def test_what_cannot_be_trained_is_told(argv, words, capsys):
    assert main(["inspect", *argv]) == 2
    assert words in capsys.readouterr().err
