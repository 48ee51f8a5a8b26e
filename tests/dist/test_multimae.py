"""MultiMAE on real shards with missing modalities: one rank or several, a restart, what a run leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.report.page import write_report
from shards import open_dataset
from tests.dist.ranks import run_ranks
from tests.dist.runs import curve, run_several

pytestmark = pytest.mark.dist

ENGINES = {
    "plain": ["engine.kind=plain"],
    "zero-2": ["engine.zero_stage=2", "engine.ema_decay=0.9"],
    "zero-3": ["engine.zero_stage=3", "engine.micro_batch=1"],
}


def arguments(out: Path, shards: Path) -> list[str]:
    return [
        "train", "--config", "configs/multimae/small.yaml", f"out={out}", f"data.shards={shards}",
        "multimae.window_m=180", "multimae.patch_m=60", "multimae.num_visible=10",
        "multimae.groups.elevation.standardise=robust", "multimae.groups.rgb.targets=[values,normed]",
        "multimae.groups.landcover.stride=2", "multimae.uncertainty=true",
        "multimae.width=16", "multimae.depth=1", "multimae.heads=2", "multimae.decoder_width=8",
        "multimae.decoder_heads=2", "engine.num_steps=6", "engine.global_batch=6",
        "engine.checkpoint.every_steps=3", "engine.log_every=1", "engine.eval_samples=4",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """The folders of all engines at 1 and 2 ranks."""
    base = tmp_path_factory.mktemp("multimae")
    for world in (1, 2):
        folder = base / str(world)
        commands = [[*arguments(folder / n, shards), *c] for n, c in ENGINES.items()]
        run_several(commands, world, folder)
    return base


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_and_number_of_ranks_has_the_losses_of_one_plain_process(runs, name, world):
    reference, found = curve(runs / "1" / "plain"), curve(runs / str(world) / name)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found == pytest.approx(reference, rel=1e-5)


def test_a_run_that_is_started_again_ends_as_it_would_have(runs, shards, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(runs / "2" / "zero-2", out)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    (out / "DONE").unlink()
    config = (out / "config.yaml").read_text().replace(str(runs / "2" / "zero-2"), str(out))
    (out / "config.yaml").write_text(config)
    argv = ["pipeline", *arguments(out, shards), *ENGINES["zero-2"]]
    assert "step 3" in run_ranks(argv, 1, tmp_path / "logs")
    assert curve(out) == pytest.approx(curve(runs / "1" / "plain"), rel=1e-5)


def test_a_finished_run_leaves_scores_pictures_and_an_encoder(runs, shards, tmp_path):
    folder = runs / "2" / "zero-3"
    values = json.loads((folder / "DONE").read_text())
    for group in ("rgb", "elevation"):
        assert 0 < values[f"guess_mae/{group}"] <= values[f"guess_rmse/{group}"]
        assert 0 < values[f"mae/{group}"] <= values[f"rmse/{group}"]
    assert 0 <= values["miou/landcover"] <= 1
    assert "loss/rgb/normed" in values
    others = json.loads((folder / "scores.json").read_text())["from_others"]
    assert others.keys() == {"rgb", "red_edge", "nir", "swir", "radar", "elevation", "landcover"}
    assert others["rgb"]["rmse/rgb"] > 0
    with np.load(folder / "reconstructions.npz") as arrays:
        assert arrays["truth/rgb"].shape[1:] == arrays["made/rgb"].shape[1:] == (3, 18, 18)
        assert arrays["made/landcover"].shape[2:] == (9, 9)
        measured = (arrays["truth/rgb"] != 0).all(1) & arrays["seen/rgb"]
        truth, made = (np.moveaxis(arrays[f"{w}/rgb"], 1, -1)[measured] for w in ("truth", "made"))
        np.testing.assert_array_equal(truth, made)
    assert (folder / "reconstructions.png").stat().st_size > 1000
    data = open_dataset(shards)
    index = int(data.select("train", ["S2L2A", "DEM"])[0])
    parts = data.read(index, ["S2L2A", "DEM"])
    encoder = MultiMAEEncoder.from_pretrained(folder)
    inputs = {n: torch.from_numpy(np.asarray(x)).float()[None] for n, x in parts.items()}
    features = encoder(inputs, [-1], "mean")[0]
    assert isinstance(features, torch.Tensor)
    assert features.shape == (1, 16, 16)
    assert torch.isfinite(features).all()


def test_the_page_shows_reconstructions_beside_the_truth(runs, tmp_path):
    write_report(runs / "1" / "plain", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for word in ("MultiMAE", "elevation", "landcover", "mIoU", "hidden", "<img"):
        assert word in page
