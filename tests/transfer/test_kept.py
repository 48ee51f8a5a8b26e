"""Models of cells that stand in the record: kept where asked for, also later, and of those cells alone."""

import json
import shutil

import pytest

from configs import to_yaml
from pipeline.__main__ import main
from pipeline.transfer.record import read_results
from tests.transfer.test_run import made  # noqa: F401

CELL = "masks-probe-all-1-seed0"


@pytest.fixture
def run(made, tmp_path, capsys):  # noqa: F811
    """The command with overrides; gives what it printed."""
    path = tmp_path / "t.yaml"
    path.write_text(to_yaml(made()))

    def work(*overrides: str) -> str:
        assert main(["transfer", "--config", str(path), *overrides]) == 0
        return capsys.readouterr().out

    return work


def test_models_may_be_asked_for_once_results_are_there(run, tmp_path, capsys):
    run()
    first = read_results(tmp_path / "out")
    assert "already done" not in run("keep_models=true")
    # The same fit again: no other result.
    (line,) = read_results(tmp_path / "out")
    assert line["metrics"] == first[0]["metrics"]
    assert "already done" in run("keep_models=true")
    arguments = ["--model", str(tmp_path / "out" / "models" / CELL)]
    arguments += ["--input", f"S2={tmp_path / 'data' / 'i3.tif'}", "--out", str(tmp_path / "m.tif")]
    assert main(["predict", *arguments]) == 0
    capsys.readouterr()
    # Without the wish for models, none is missed.
    shutil.rmtree(tmp_path / "out" / "models")
    assert f"{CELL} already done" in run()
    assert not (tmp_path / "out" / "models").exists()


@pytest.mark.parametrize("what", ["config.json", "model.safetensors", ""])
def test_a_model_that_was_removed_is_made_again(run, tmp_path, what):
    run("keep_models=true")
    path = tmp_path / "out" / "models" / CELL / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "already done" not in run("keep_models=true")
    assert path.exists()


def test_a_model_of_other_settings_is_not_taken_for_the_one_asked_for(run, tmp_path):
    run("keep_models=true")
    weights = tmp_path / "out" / "models" / CELL / "model.safetensors"
    first = weights.read_bytes()
    run("keep_models=true", "fit.num_steps=20")
    assert weights.read_bytes() != first
    run("keep_models=true")
    assert weights.read_bytes() == first
    record = json.loads((weights.parent / "config.json").read_text())
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [record["cell"]] == scores["cells"]


def test_neighbours_have_no_model_to_be_missed(run, tmp_path):
    splits = ("train", "train", "val", "test")
    lines = [f"i{i}.tif,{'ab'[i // 4 % 2]},{splits[i % 4]}" for i in range(24)]
    table = tmp_path / "data" / "classes.csv"
    table.write_text("\n".join(["image,label,split", *lines]) + "\n")
    task = ["type=classification", f"data.table={table}", "data.label=label", "data.classes=[a,b]"]
    asked = ["protocols=[knn]", "keep_models=true", *(f"tasks.masks.{text}" for text in task)]
    run(*asked)
    assert "already done" in run(*asked)
