"""MultiMAE on real shards with missing modalities: one rank or several, a restart, what a run leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.registry import modality
from pipeline.engine.evaluation import spread
from pipeline.evaluate.probes import probe
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.report.page import write_report
from shards import open_dataset
from tests.dist.ranks import run_ranks
from tests.dist.runs import curve, metrics, run_several

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


LOOK = [
    "monitor.every_steps=4",
    "monitor.probes={labels: [LULC], without: [DEM], num_train: 24, num_test: 8, neighbours: 3}",
]


def test_probes_while_it_trains_see_what_its_encoder_sees_and_change_nothing(
    runs, shards, tmp_path
):
    """Under ZeRO-3, of which no rank holds all; against features of the finished run's encoder."""
    out = tmp_path / "seen"
    argv = ["pipeline", *arguments(out, shards), *ENGINES["zero-3"], *LOOK]
    run_ranks(argv, 2, tmp_path / "logs")
    unseen = runs / "2" / "zero-3"
    assert curve(out) == curve(unseen)
    weights = [(run / "artifact" / "model.safetensors").read_bytes() for run in (out, unseen)]
    assert weights[0] == weights[1]
    found = {line["step"]: line["monitor"] for line in metrics(out) if "monitor" in line}
    assert list(found) == [4, 6]

    dataset, row = open_dataset(shards), modality("LULC")
    assert row.nodata == 0
    encoder, names = MultiMAEEncoder.from_pretrained(out), ("S2L2A", "S1GRD")
    vectors, labels = {}, {}
    for split, most in (("train", 24), ("val", 8)):
        parts = []
        for i in spread(dataset.select(split, ["LULC"]), most):
            # Windows of 180 m start 60 m, 6 pixels, into the tiles of 240 m.
            read = dataset.read(int(i), [*names, "LULC"])
            sample = {name: np.asarray(part)[:, 6:, 6:] for name, part in read.items()}
            counts = np.bincount(sample.pop("LULC").ravel(), minlength=row.num_classes)
            counts[0] = 0
            if not sample or not counts.any():
                continue
            given = {n: torch.from_numpy(x.astype(np.float32))[None] for n, x in sample.items()}
            with torch.no_grad():
                tokens = torch.cat([*encoder(given)[-1].values()], 1)
            parts.append((tokens.mean(1)[0], int(counts.argmax())))
        vectors[split] = torch.stack([v for v, _ in parts])
        labels[split] = torch.tensor([label for _, label in parts])
    classes = labels["train"].unique()
    known = torch.isin(labels["val"], classes)
    train = vectors["train"], torch.searchsorted(classes, labels["train"])
    test = vectors["val"][known], torch.searchsorted(classes, labels["val"][known])
    expected = probe(train, test, len(classes), 3, 1e-2)
    seen = found[6]
    assert {name: seen[f"{name}/LULC"] for name in expected} == pytest.approx(expected)


def test_what_can_never_be_probed_is_refused_at_the_start(shards, tmp_path, capsys):
    from pipeline.__main__ import main

    everything = "[LULC,S2L2A,S1GRD,DEM]"
    for change, words in (
        ("monitor.probes={labels: [DEM]}", "only class maps"),
        (
            f"monitor.probes={{labels: [LULC], without: {everything}}}",
            "nothing is left of the groups",
        ),
        ("monitor.sheet={source: [S2L2A], target: [DEM]}", "generates no tokens"),
    ):
        argv = [*arguments(tmp_path / "run", shards), "monitor.every_steps=2", change]
        assert main(argv) == 2
        assert words in capsys.readouterr().err


def test_the_page_shows_reconstructions_beside_the_truth(runs, tmp_path):
    write_report(runs / "1" / "plain", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for word in ("MultiMAE", "elevation", "landcover", "mIoU", "hidden", "<img"):
        assert word in page
