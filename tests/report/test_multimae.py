"""A masked autoencoder on the page: in an experiment beside the chain, by itself, unfinished."""

import json
from pathlib import Path

import pytest

from pipeline.report.page import write_report

CONFIG = """
kind: multimae
engine: {num_steps: 20, global_batch: 4}
multimae: {groups: {rgb: {modality: S2L2A}, landcover: {modality: LULC}}}
"""
HELD_OUT = {
    "loss": 2.0, "rmse/rgb": 321.0, "guess_rmse/rgb": 654.0, "miou/landcover": 0.25,
    "guess_miou/landcover": 0.125,
}  # fmt: skip


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    lines = [{"step": 10, "loss": 3.0, "loss/rgb": 1.0}, {"step": 10, "eval": HELD_OUT}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    others = {"from_others": {"rgb": {"rmse/rgb": 432.0}}}
    (folder / "scores.json").write_text(json.dumps(others))
    return folder


@pytest.mark.parametrize("place", ["alone", "experiment"])
def test_scores_stand_beside_the_guess_and_what_is_missing_is_named(tmp_path, place) -> None:
    run = make(tmp_path / "x" / ("" if place == "alone" else "multimae"))
    write_report(tmp_path / "x", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert run.is_dir()
    for text in ("MultiMAE: reconstruction", ">321<", ">432<", ">654<", ">25.0 %<", ">12.5 %<"):
        assert text in page
    assert "No reconstructions yet: the run has not finished." in page


def test_a_page_without_one_does_not_speak_of_it(tmp_path) -> None:
    (tmp_path / "x").mkdir()
    write_report(tmp_path / "x", tmp_path / "page.html")
    assert "MultiMAE" not in (tmp_path / "page.html").read_text()
