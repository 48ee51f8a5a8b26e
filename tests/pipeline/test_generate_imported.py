"""An imported model is told its tokenizers, which have to fit the tokens that it knows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import load_config
from configs.registry import BandStatistics, modality
from configs.schema import ShardsConfig, TokenizerConfig
from pipeline.__main__ import main
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.tokenizer import Tokenizer
from shards.build import build
from tests.pipeline import test_terramind, test_terramind_model

SIDE = 64
CODES = 8 * 8 * 8 * 6 * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `S2RGB` are imported, `DEM` is a tokenizer of ours, `shards` have no tokens."""
    root = tmp_path_factory.mktemp("imported")
    torch.save(test_terramind.published("diffusion"), root / "rgb.pt")
    argv = ["import-tokenizer", str(root / "rgb.pt"), "--modality", "S2RGB", "--crop", str(SIDE)]
    assert main([*argv, "--out", str(root / "S2RGB")]) == 0
    state = test_terramind_model.published("tok_s2rgb@224", "coords", codes=CODES)
    torch.save(state, root / "model.pt")
    assert main(["import-model", str(root / "model.pt"), "--out", str(root / "model")]) == 0
    save_dem(root / "DEM", [8, 8, 8, 6, 5])
    config = load_config(
        "configs/shards/synthetic.yaml",
        [f"out={root / 'shards'}", "source.num_samples=6", "source.tile_px=66",
         "source.missing=0", "splits.train=0.5", "splits.val=0.5"],
    )  # fmt: skip
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    maps = np.random.default_rng(0).integers(100, 3000, (12, SIDE, SIDE))
    np.save(root / "scene.npy", maps.astype(np.int16))
    return root


def save_dem(folder: Path, levels: list[int]) -> None:
    row = modality("DEM")
    config = TokenizerConfig.model_validate(
        {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "patch_px": 16,
         "crop_px": SIDE, "fsq": {"levels": levels}}
    )  # fmt: skip
    statistics = BandStatistics((400.0,), (300.0,))
    ImageTokenizer(Tokenizer(row, config, SIDE), row, statistics).save(folder / "artifact")


def asked(folder: Path, out: Path, target: str, *more: str) -> list[str]:
    return [
        "generate", "--run", str(folder / "model"), "--to", target, "--out", str(out), *more, "steps=1",
    ]  # fmt: skip


def test_a_scene_is_generated_with_the_tokenizer_that_is_named(folder: Path, tmp_path: Path):
    scene = ["--input", f"S2L2A={folder / 'scene.npy'}"]
    argv = asked(folder, tmp_path, "S2RGB", *scene, "--tokenizer", f"S2RGB={folder / 'S2RGB'}")
    assert main(argv) == 0
    assert np.load(tmp_path / "S2RGB.npy").shape == (3, SIDE, SIDE)


def test_held_out_samples_need_no_tokens_of_their_own(folder: Path, tmp_path: Path):
    argv = asked(
        folder, tmp_path, "DEM", "--from", "S2L2A", f"data.shards={folder / 'shards'}",
        f"tokenizers.DEM={folder / 'DEM'}", "num_samples=2",
    )  # fmt: skip
    assert main(argv) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["DEM"]["rmse"]
    assert set(scores) == {"model", "baseline", "climatology", "tokens"}
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["generated/DEM"].shape == (2, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("S2RGB", (), "write --tokenizer S2RGB=FOLDER"),
        ("coordinates", (), "words of a vocabulary that was not imported"),
        ("S2RGB", ("--tokenizer", "S2RGB"), "such as --tokenizer S2L2A=runs/stage1/S2L2A"),
        ("S2RGB", ("--tokenizer", "S2RGB={0}/nothing"), "no tokenizer in"),
        ("S2RGB", ("--tokenizer", "S2RGB={0}/DEM"), "modality, vocabulary and grid are ('DEM', 15360"),
        ("DEM", ("--tokenizer", "DEM={0}/other"), "('DEM', 9, (4, 4)) there and ('DEM', 15360"),
        ("DEM", ("--tokenizer", "LULC={0}/DEM"), "tokenizers names LULC, neither source nor target"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(folder: Path, tmp_path: Path, capsys, target, more, words):
    if not (folder / "other").exists():
        save_dem(folder / "other", [3, 3])
    scene = ["--input", f"S2L2A={folder / 'scene.npy'}"]
    named = [text.format(folder) for text in more]
    assert main(asked(folder, tmp_path / "out", target, *scene, *named)) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_tokens_of_another_tokenizer_are_no_source(folder: Path, tmp_path: Path, capsys):
    argv = asked(folder, tmp_path, "S2RGB", "--from", "DEM", f"data.shards={folder / 'shards'}")
    argv += [f"tokenizers.{name}={folder / name}" for name in ("S2RGB", "DEM")]
    assert main(argv) == 2
    assert "takes DEM as tokens, and" in capsys.readouterr().err
    tokenize = [
        "tokenize", "--config", "configs/tokenize/small.yaml", f"data.shards={folder / 'shards'}",
        f"tokenizers.DEM={folder / 'DEM'}", "modalities=[]",
    ]  # fmt: skip
    assert main(tokenize) == 0
    assert main(argv) == 0


def test_an_imported_model_has_no_data_of_its_own(folder: Path, tmp_path: Path, capsys):
    assert main(asked(folder, tmp_path, "DEM", "--from", "S2L2A")) == 2
    assert "data.shards=FOLDER or --input" in capsys.readouterr().err
