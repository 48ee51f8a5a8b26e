"""The page about models side by side: right numbers, and no run left out in silence."""

import json
import shutil
from pathlib import Path

import pytest

from configs import load_config, to_yaml
from configs.schema import MaskedRunConfig
from launch.plan import plan_steps
from launch.step import What
from pipeline.engine.lifecycle import mark_done, write_atomic, write_records
from pipeline.report.glance import SYNTHETIC
from tests.report import chromium
from tests.report.conftest import Page, read
from tests.report.made_up import write_lines
from tests.report.test_browser import check_page

FILE = "configs/experiments/fusion.yaml"
CE = {
    "masked": 3.0, "fusion-concat": 3.5, "fusion-mean": 3.6, "fusion-gated": 3.7, "early": 3.8,
    "single": 4.0,
}  # fmt: skip
TARGETS = ("S2L2A", "DEM", "LULC")


def scores_of(arm: str, number: int) -> dict:
    """All targets alike; 0.5 worse without S2L2A, 1 worse with one alone; one seed 0.2 worse."""
    ce = CE[arm] + 0.2 * number
    inputs = TARGETS[:1] if arm == "single" else TARGETS
    rises = {"all": 0.0}
    if len(inputs) > 1:
        rises |= {f"without/{n}": 0.5 * (n == "S2L2A") for n in inputs}
        rises |= {f"alone/{n}": 1.0 for n in inputs}
    tokens = {
        given: {
            t: {"ce": ce + rise, "accuracy": 0.25, "num_samples": 9, "num_tokens": 99}
            for t in TARGETS
            if given != f"alone/{t}" and not (arm == "single" and t == "S2L2A")
        }
        for given, rise in rises.items()
    }
    given = ["all", *(f"without/{n}" for n in inputs if n != "LULC" and len(inputs) > 1)]
    probes = {
        "classes": ["water", "trees"], "num_train": 50, "num_test": 40, "most_frequent": 0.6,
        "model": {s: {"knn": 0.7, "linear": 0.8 + 0.02 * number} for s in given},
        "untrained": {s: {"knn": 0.62, "linear": 0.64} for s in given},
    }  # fmt: skip
    prior = {t: {"ce": 5.0, "accuracy": 0.02} for t in TARGETS}
    model = {"kind": "stage2", "parameters": 1_500_000}
    return {"model": model, "tokens": tokens, "prior": prior, "probes": {"LULC": probes}}


def make_models(folder: Path) -> Path:
    """All runs of two seeds, finished and evaluated, with invented results."""
    overrides = [f"out={folder}", "seeds=[0,1]"]
    folder.mkdir(parents=True)
    write_atomic(folder / "experiment.yaml", to_yaml(load_config(FILE, overrides)))
    for step in plan_steps(What.all, FILE, overrides):
        if not isinstance(step.config, MaskedRunConfig):
            continue
        _, arm, seed = step.name.split("/")
        number = int(seed[5:])
        step.out.mkdir(parents=True)
        write_records(step.out, step.config, 1, 0, {"dataset": {"fingerprint": "f00"}})
        lines = [
            {
                "step": s,
                "loss": 6.0 - s / 400,
                "grad_norm": 1.0,
                "samples_per_s": 32.0 + 16 * number,
            }
            for s in range(100, 801, 100)
        ]
        values = {"loss": CE[arm], "ce/DEM": CE[arm], "inputs/1/ce": 4.5, "inputs/4/ce": 3.9}
        write_lines(step.out, [*lines, {"step": 800, "eval": values}])
        mark_done(step.out, 800, values)
        (step.out / "evaluation").mkdir()
        (step.out / "evaluation" / "scores.json").write_text(json.dumps(scores_of(arm, number)))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models") / "made-up")


@pytest.fixture(scope="module")
def page(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(models, tmp_path_factory.mktemp("page") / "report.html")


def rows_of(page: Page, arm: str) -> list[list[str]]:
    return [row for row in page.rows if row and row[0] == arm]


def test_means_are_over_the_targets_that_all_arms_have_and_over_seeds(page: Page) -> None:
    assert "Targets in these means: DEM, LULC." in page.text
    # Without S2L2A both targets lose 0.5, without DEM or LULC the other one loses nothing.
    assert rows_of(page, "masked")[0] == [
        "masked", "2 of 2", "3.10 ± 0.14", "25.0 % ± 0.0", "+0.250 ± 0.000", "+1.000 ± 0.000", "1.50",
        "2.50 ± 0.71",
    ]  # fmt: skip
    assert rows_of(page, "single")[0][2:6] == ["4.10 ± 0.14", "25.0 % ± 0.0", "–", "–"]
    assert page.row("how often a code occurs")[2:4] == ["5.00", "2.0 %"]


def test_every_target_is_told_with_each_input_missing(page: Page) -> None:
    rows = rows_of(page, "masked")
    assert ["masked", "+0.500 ± 0.000", "+0.000 ± 0.000", "+0.000 ± 0.000"] in rows
    assert ["masked", "+1.000 ± 0.000", "+1.000 ± 0.000", "+1.000 ± 0.000"] in rows
    assert ["masked", "3.10 ± 0.14", "–", "3.10 ± 0.14", "3.10 ± 0.14"] in rows  # of S2L2A
    assert ["masked", "3.10 ± 0.14", "3.60 ± 0.14", "–", "3.10 ± 0.14"] in rows  # of DEM
    assert ["masked", "3.10 ± 0.14", "4.10 ± 0.14", "–", "4.10 ± 0.14"] in rows  # DEM, one alone


def test_probes_stand_beside_their_untrained_twins(page: Page) -> None:
    assert ["masked", "81.0 % ± 1.4", "81.0 % ± 1.4", "81.0 % ± 1.4"] in page.rows
    assert ["masked, untrained", "62.0 % ± 0.0", "62.0 % ± 0.0", "62.0 % ± 0.0"] in page.rows
    assert ["single", "81.0 % ± 1.4", "–", "–"] in page.rows
    assert page.row("most frequent class")[1] == "60.0 %"


def test_every_arm_has_a_line_in_every_panel(page: Page) -> None:
    # Training and held-out loss, two numbers of inputs, gradient norm; one target.
    panels = [a for a in page.all("svg") if "over steps" in a.get("aria-label", "")]
    assert len(panels) == 6
    assert "Held-out, seeing 1 modality over steps" in panels[2]["aria-label"]
    assert "seeing 4 modalities or more over steps" in panels[3]["aria-label"]
    assert len(page.all("polyline")) == 6 * len(CE)


def test_data_budget_and_provenance_are_told(page: Page) -> None:
    assert SYNTHETIC in page.text
    assert "800 steps of 16 samples, 12,800 in all" in page.text
    assert (
        "Not the same for all arms: masked.pixels (early); masked.tokens (early, single)."
        in page.text
    )
    assert "pixels of S2L2A, S1GRD, DEM, NDVI; tokens of coordinates, date" in " ".join(
        rows_of(page, "early")[-1]
    )
    assert page.row("fusion-gated, seed 1")[1] == "finished"
    assert "fusion.combine=gated" in page.text


def test_runs_that_are_missing_or_not_evaluated_are_told(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(models, folder)
    shutil.rmtree(folder / "models" / "masked" / "seed-0")
    shutil.rmtree(folder / "models" / "single" / "seed-1" / "evaluation")
    page = read(folder, tmp_path / "r.html")
    assert "2 runs not in these numbers:" in page.text
    assert "masked, seed 0: not started" in page.text
    assert "single, seed 1: not evaluated" in page.text
    assert rows_of(page, "masked")[0][:3] == ["masked", "1 of 2", "3.20"]


def test_nothing_run_yet_is_a_page_too(tmp_path: Path) -> None:
    write_atomic(tmp_path / "experiment.yaml", to_yaml(load_config(FILE, [f"out={tmp_path}"])))
    page = read(tmp_path, tmp_path / "r.html")
    assert "No probe has been evaluated yet." in page.text
    assert "0 of 18" in page.text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_draws_without_errors(models: Path, tmp_path: Path, width: int) -> None:
    if program := chromium.missing():
        pytest.skip(f"{program} is not installed")
    check_page(models, tmp_path, width)
