"""Probes and sheets of real runs while they train, under every engine, with averaged weights and without."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.dist.runs import curve, events, metrics, run_several

pytestmark = pytest.mark.dist

LOOK = [
    "monitor.every_steps=4", "monitor.probes.labels=[LULC]", "monitor.probes.num_train=20",
    "monitor.probes.num_test=6", "data.eval_split=train",
]  # fmt: skip
SHEET = [
    "monitor.sheet.source=[S2L2A]", "monitor.sheet.target=[LULC,DEM,date]", "monitor.sheet.num_samples=2",
]  # fmt: skip
ENGINES = {
    "plain": ["engine.kind=plain", "engine.ema_decay=0.9"],
    "zero-2": ["engine.zero_stage=2"],
    "zero-3": ["engine.zero_stage=3", "engine.micro_batch=1", "engine.ema_decay=0.9"],
}
STEPS = ["engine.num_steps=6", "engine.eval_every=0"]


@pytest.fixture(scope="module")
def runs(tiny_stage2, tmp_path_factory) -> Path:
    """Of each engine a run with a monitor and one without; the last cannot write its sheets."""
    base = tmp_path_factory.mktemp("monitored")
    commands = []
    for name, changes in ENGINES.items():
        for way, look in (("seen", [*LOOK, *SHEET]), ("unseen", ["data.eval_split=train"])):
            commands.append([*tiny_stage2(base / f"{name}-{way}"), *STEPS, *changes, *look])
    commands.append([*tiny_stage2(base / "hindered"), *STEPS, *ENGINES["plain"], *LOOK, *SHEET])
    (base / "hindered").mkdir()
    (base / "hindered" / "monitor").write_text("no folder")
    run_several(commands, 2, base / "logs")
    return base


@pytest.mark.parametrize("name", ENGINES)
def test_training_is_the_same_to_the_last_bit(runs: Path, name: str):
    seen, unseen = runs / f"{name}-seen", runs / f"{name}-unseen"
    assert curve(seen) == curve(unseen)
    weights = [(run / "artifact" / "model.safetensors").read_bytes() for run in (seen, unseen)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", ENGINES)
def test_scores_and_sheets_are_there_for_every_look(runs: Path, name: str):
    run = runs / f"{name}-seen"
    found = {line["step"]: line["monitor"] for line in metrics(run) if "monitor" in line}
    assert list(found) == [4, 6]
    for step, values in found.items():
        assert set(values) == {"knn/LULC", "linear/LULC", "most_frequent/LULC", "seconds"}
        folder = run / "monitor" / f"step-{step:08d}"
        assert (folder / "sheet.png").stat().st_size > 0
        with np.load(folder / "samples.npz") as arrays:
            assert len(arrays["keys"]) == len(arrays["generated/DEM"]) == 2
    assert not events(run)


def test_the_last_look_finds_what_evaluation_finds(runs: Path, tokens: Path, tmp_path: Path):
    """Of averaged weights under ZeRO-3, of which no rank holds all."""
    run = runs / "zero-3-seen"
    command = [
        "evaluate", "--config", "configs/evaluate/small.yaml", f"run={run}", f"out={tmp_path / 'e'}",
        f"data.shards={tokens}", "data.eval_split=train", "num_samples=2", "without=[]", "alone=[]",
        "probes.num_train=20", "probes.num_test=6", "probes.without=[]",
    ]  # fmt: skip
    generate = [
        "generate", f"run={run}", f"out={tmp_path / 'g'}", f"data.shards={tokens}", "split=train",
        "source=[S2L2A]", "target=[LULC,DEM,date]", "num_samples=2", "estimate=expected",
        "num_calibration=0",
    ]  # fmt: skip
    run_several([command, generate], 1, tmp_path / "logs")
    scores = json.loads((tmp_path / "e" / "scores.json").read_text())["probes"]["LULC"]
    last = next(line for line in reversed(metrics(run)) if "monitor" in line)["monitor"]
    assert last["linear/LULC"] == scores["model"]["all"]["linear"]
    assert last["knn/LULC"] == scores["model"]["all"]["knn"]
    assert last["most_frequent/LULC"] == scores["most_frequent"]
    seen = run / "monitor" / "step-00000006" / "samples.npz"
    with np.load(seen) as ours, np.load(tmp_path / "g" / "samples.npz") as theirs:
        for name in ("keys", "generated/LULC", "generated/DEM", "generated/date"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_look_that_fails_is_told_and_the_run_goes_on(runs: Path):
    run = runs / "hindered"
    assert (run / "DONE").is_file()
    assert curve(run) == curve(runs / "plain-unseen")
    told = events(run)
    assert [line["step"] for line in told] == [4, 6]
    assert all("nothing was seen at step" in line["text"] for line in told)
    assert not any("monitor" in line for line in metrics(run))


def test_what_can_never_be_seen_is_refused_at_the_start(tiny_stage2, tmp_path: Path, capsys):
    from pipeline.__main__ import main

    for change, words in (
        ("monitor.probes.labels=[DEM]", "only class maps"),
        ("monitor.sheet={source: [S2L2A], target: [NDVI]}", "target NDVI: the model generates"),
    ):
        out = tmp_path / "run"
        assert main([*tiny_stage2(out), "monitor.every_steps=2", change]) == 2
        assert words in capsys.readouterr().err
        shutil.rmtree(out)
