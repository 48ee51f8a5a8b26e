"""Tokenizers with a codebook and a critic, on real ranks: the same whatever is cut or killed."""

import itertools
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.engine.checkpoint import committed, read_manifest
from pipeline.engine.statefile import StateReader
from tests.dist.conftest import TINY_TOKENIZER
from tests.dist.ranks import Ranks, run_ranks
from tests.dist.runs import curve, metrics, run_several

pytestmark = pytest.mark.dist

ARMS = list(itertools.product(("fsq", "vq"), ("vit", "gan", "diffusion")))
SMALL = [
    "tokenizer.vq.num_codes=16", "tokenizer.vq.latent_width=4",
    "tokenizer.gan.width=8", "tokenizer.gan.depth=2", "tokenizer.gan.start_step=3",
    "tokenizer.diffusion.width=8", "tokenizer.diffusion.multipliers=[1]",
    "tokenizer.diffusion.attention=[true]", "tokenizer.diffusion.blocks_per_level=1",
    "tokenizer.diffusion.heads=2", "tokenizer.diffusion.sample_steps=2",
    "engine.num_steps=12", "engine.global_batch=6", "engine.log_every=1",
    "engine.checkpoint.every_steps=3", "engine.schedule.warmup_steps=2",
]  # fmt: skip


# Muon makes directions that hardly any gradient has as long as the others: rounding is soon seen.
ADAMW = ["engine.optimizer.name=adamw", "engine.optimizer.lr=1e-3"]


def arguments(shards: Path, out: Path, quantizer: str, decoder: str, *more: str) -> list[str]:
    return [
        "train", "--config", "configs/stage1/small.yaml", "modality=S1GRD", f"out={out}",
        f"data.shards={shards}", *TINY_TOKENIZER, f"tokenizer.quantizer={quantizer}",
        f"tokenizer.decoder={decoder}", *SMALL, *more,
    ]  # fmt: skip


def final_state(out: Path) -> dict[str, torch.Tensor]:
    """Everything that the last commit holds."""
    folder = committed(out / "checkpoints")[0]
    reader = StateReader(folder, read_manifest(folder).world_size)
    return {name: reader.whole(name) for name in reader.names if not name.startswith("rng/")}


@pytest.fixture(scope="module")
def cut(shards, tmp_path_factory):
    """Folders of all arms at 1, 2 and 3 ranks; the last under ZeRO-3 and in micro-batches."""
    base = tmp_path_factory.mktemp("cut")
    for world in (1, 2, 3):
        folder = base / str(world)
        apart = [] if world < 3 else ["engine.micro_batch=1", "engine.zero_stage=3"]
        commands = [arguments(shards, folder / f"{q}-{d}", q, d, *apart, *ADAMW) for q, d in ARMS]
        run_several(commands, world, folder)
    return base


@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_ranks_trains_the_same_tokenizer(cut, world, quantizer, decoder):
    name = f"{quantizer}-{decoder}"
    reference, found = curve(cut / "1" / name), curve(cut / str(world) / name)
    assert found.keys() == reference.keys()
    for step, loss in reference.items():
        assert found[step] == pytest.approx(loss, rel=1e-4), step
    expected, ours = final_state(cut / "1" / name), final_state(cut / str(world) / name)
    assert ours.keys() == expected.keys()
    if quantizer == "vq":
        book = "buffers/quantizer.codebook"
        torch.testing.assert_close(ours[book], expected[book], atol=1e-4, rtol=1e-4)
    assert ("weights/critic.net.first.weight" in ours) == (decoder == "gan")


@pytest.mark.parametrize(("quantizer", "decoder"), ARMS)
def test_an_arm_leaves_scores_and_an_artifact(cut, quantizer, decoder):
    out = cut / "2" / f"{quantizer}-{decoder}"
    last = [line["eval"] for line in metrics(out) if "eval" in line][-1]
    assert {"mae", "rmse", "psnr", "ssim", "mae/VV", "codes_used", "perplexity"} <= last.keys()
    weights = load_file(out / "artifact" / "model.safetensors")
    assert not [name for name in weights if "critic" in name]


@pytest.mark.timeout(300)
def test_a_critic_and_a_codebook_survive_being_killed_bit_by_bit(shards, tmp_path):
    long = ["engine.num_steps=60", "engine.checkpoint.every_steps=2"]
    straight, out = tmp_path / "straight", tmp_path / "killed"
    argv = ["pipeline", *arguments(shards, out, "vq", "gan", "engine.zero_stage=2", *long)]
    run_ranks([*argv, f"out={straight}"], 2, tmp_path / "logs")
    dice = random.Random(5)
    for number in range(3):
        ranks = Ranks(argv, 2, tmp_path / f"start-{number}")
        begin = len(committed(out / "checkpoints")) and int(
            committed(out / "checkpoints")[0].name[5:]
        )
        ranks.wait_for(out / "checkpoints" / f"step-{begin + 8:08d}" / "MANIFEST.json")
        time.sleep(dice.random() * 0.2)
        ranks.kill()
        assert not (out / "DONE").exists()
    run_ranks(argv, 2, tmp_path / "last")
    assert curve(out) == curve(straight)
    expected, found = final_state(straight), final_state(out)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert {
        "exp_avg/critic.net.first.weight",
        "momentum_buffer/encoder.to_latent.weight",
    } <= found.keys()


def test_crops_of_several_sizes_are_drawn_alike_on_all_ranks(shards, tmp_path):
    for world in (1, 2):
        sizes = ["tokenizer.crop_px=16", "tokenizer.crops_px=[8,16,24]"]
        argv = ["pipeline", *arguments(shards, tmp_path / str(world), "fsq", "vit", *sizes)]
        run_ranks(argv, world, tmp_path / f"logs-{world}")
    alone, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    for step, loss in alone.items():
        assert two[step] == pytest.approx(loss, rel=1e-5)
