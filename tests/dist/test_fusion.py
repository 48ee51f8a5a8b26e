"""Late fusion and evaluation on real shards with missing modalities: one rank or several, then scores."""

import json
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.fusion.artifact import load
from tests.dist.ranks import run_ranks
from tests.dist.runs import curve, run_several

pytestmark = pytest.mark.dist

NAMES = "[DEM,LULC,captions,coordinates,date]"
ENGINES = {
    "plain": ["engine.kind=plain"],
    "zero-2": ["engine.zero_stage=2", "fusion.combine=concat"],
    "zero-3": ["engine.zero_stage=3", "engine.micro_batch=1"],
}


def arguments(out: Path, shards: Path) -> list[str]:
    return [
        "train", "--config", "configs/fusion/small.yaml", f"out={out}", f"data.shards={shards}",
        f"masked.tokens={NAMES}", f"masked.targets={NAMES}", "masked.width=32",
        "masked.num_input_tokens=16", "masked.num_target_tokens=16", "fusion.depth=1",
        "engine.num_steps=6", "engine.global_batch=6", "engine.checkpoint.every_steps=6",
        "engine.log_every=1", "engine.eval_samples=4",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tokens, tmp_path_factory):
    """The folders of all engines at 1 and 2 ranks."""
    base = tmp_path_factory.mktemp("fusion")
    for world in (1, 2):
        folder = base / str(world)
        commands = [[*arguments(folder / n, tokens), *c] for n, c in ENGINES.items()]
        run_several(commands, world, folder)
    return base


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_and_number_of_ranks_has_the_losses_of_one_plain_process(runs, name, world):
    reference, found = curve(runs / "1" / "plain"), curve(runs / str(world) / name)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found == pytest.approx(reference, rel=1e-5)


def test_inspection_foresees_the_model_with_the_latents_of_its_tokenizers(runs, tokens, capsys):
    assert main(["inspect", "--json", *arguments(runs / "1" / "plain", tokens)[1:]]) == 0
    model = load(runs / "1" / "plain" / "artifact")
    foreseen = json.loads(capsys.readouterr().out)["parameters"]
    assert foreseen == sum(p.numel() for p in model.parameters())


def test_a_trained_model_is_evaluated_once(runs, tokens, tmp_path):
    command = [
        "pipeline", "evaluate", "--config", "configs/evaluate/small.yaml", f"run={runs / '2' / 'zero-3'}",
        f"out={tmp_path / 'evaluation'}", f"data.shards={tokens}", "num_samples=3", "without=[DEM]",
        "alone=[LULC]", "data.eval_split=train", "probes.num_train=20", "probes.num_test=6",
    ]  # fmt: skip
    run_ranks(command, 1, tmp_path / "logs")
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert scores["model"]["kind"] == "fusion"
    assert set(scores["tokens"]) == {"all", "without/DEM", "alone/LULC"}
    assert set(scores["tokens"]["all"]) == {"DEM", "LULC", "captions", "coordinates", "date"}
    assert "LULC" not in scores["tokens"]["alone/LULC"]
    assert all(v["ce"] > 0 for found in scores["tokens"].values() for v in found.values())
    probes = scores["probes"]["LULC"]
    # Captions are hidden by the configuration: they say the label in words.
    given = {"all", "without/DEM", "without/coordinates", "without/date"}
    assert set(probes["model"]) == set(probes["untrained"]) == given
    assert "already done" in run_ranks(command, 1, tmp_path / "logs")
