"""A tiny shard set with tokens, made once per session by the real commands."""

from pathlib import Path

import pytest

from tests.dist.ranks import run_ranks

TINY_TOKENIZER = [
    "tokenizer.width=32", "tokenizer.heads=2", "tokenizer.encoder_depth=1", "tokenizer.decoder_depth=1",
    "tokenizer.fsq.levels=[4,4]", "tokenizer.text.vocab_size=200",
    "engine.num_steps=4", "engine.global_batch=4", "engine.eval_samples=4",
]  # fmt: skip


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """48 synthetic samples of 24 px with missing modalities."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    run_ranks(
        ["shards", "build", "--config", "configs/shards/synthetic.yaml", f"out={folder}",
         "source.num_samples=48", "source.tile_px=24", "source.missing=0.3", "samples_per_shard=16"],
        1, folder.parent / "logs",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tokens(shards, tmp_path_factory) -> Path:
    """The same shard set, with tokens of land cover, height, captions, place and date."""
    out = tmp_path_factory.mktemp("stage1")
    for modality in ("LULC", "DEM", "captions"):
        run_ranks(
            ["pipeline", "train", "--config", "configs/stage1/small.yaml", f"modality={modality}",
             f"out={out / modality}", f"data.shards={shards}", *TINY_TOKENIZER],
            1, out / "logs" / modality,
        )  # fmt: skip
    run_ranks(
        ["pipeline", "tokenize", "--config", "configs/tokenize/small.yaml", f"data.shards={shards}",
         *(f"tokenizers.{m}={out / m}" for m in ("LULC", "DEM", "captions"))],
        2, out / "logs" / "tokenize",
    )  # fmt: skip
    return shards


@pytest.fixture(scope="session")
def tiny_stage2(tokens):
    """Arguments of `pipeline` for a tiny stage-2 run with missing modalities, into a folder."""
    names = "[DEM,LULC,captions,coordinates,date]"

    def arguments(out: Path) -> list[str]:
        return [
            "train", "--config", "configs/stage2/small.yaml", f"out={out}",
            f"data.shards={tokens}", "masked.pixels=[S2L2A,S1GRD]",
            "masked.patch_px={S2L2A: 8, S1GRD: 8}",
            f"masked.tokens={names}", f"masked.targets={names}", "masked.width=32", "masked.heads=2",
            "masked.encoder_depth=1", "masked.decoder_depth=1", "masked.num_input_tokens=16",
            "masked.num_target_tokens=16", "engine.num_steps=12", "engine.global_batch=6",
            # Muon is for sharded engines alone, and its bfloat16 steps hide what other ranks' sums change.
            "engine.optimizer={name: adamw, lr: 1e-3}",
            "engine.checkpoint.every_steps=4", "engine.log_every=1", "engine.eval_samples=4",
        ]  # fmt: skip

    return arguments


@pytest.fixture
def stage2_argv(tiny_stage2, tmp_path):
    """The command line of such a run, and its folder."""
    out = tmp_path / "run"
    return ["pipeline", *tiny_stage2(out)], out
