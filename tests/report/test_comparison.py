"""The page about tokenizers side by side: right numbers, and no run left out in silence."""

import json
import math
import shutil
from pathlib import Path

import pytest

from pipeline.report.glance import SYNTHETIC
from pipeline.report.page import LIMIT_BYTES
from tests.report import chromium
from tests.report.conftest import Page, read
from tests.report.made_up_comparison import ARMS, RMSE, make_comparison
from tests.report.test_browser import check_page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six arms, three modalities, three seeds, all finished; tests only read it."""
    return make_comparison(tmp_path_factory.mktemp("comparison") / "made-up")


@pytest.fixture(scope="module")
def page(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(comparison, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One modality, two seeds."""
    return make_comparison(tmp_path / "small", "seeds=[0,1]", skip=("stage1/S2L2A", "stage1/LULC"))


def rows_of(page: Page, arm: str) -> list[list[str]]:
    """The rows of an arm's name: scores and training of each modality, then the arm itself."""
    return [row for row in page.rows if row and row[0] == arm]


def test_scores_are_means_and_deviations_over_seeds(page: Page) -> None:
    # S2L2A: RMSE of 50, 51 and 52.
    assert rows_of(page, "fsq-vit")[0][:6] == [
        "fsq-vit",
        "3 of 3",
        "25.5 best ± 0.5",
        "51.0 best ± 1.0",
        "29.0 best ± 1.0",
        "0.490 best ± 0.010",
    ]
    shown = rows_of(page, "vq-gan")[0]
    assert shown[3] == f"{RMSE['vq-gan'] + 1:.1f} ± 1.0"
    assert shown[6:] == ["50.0 % ± 0.0", "210 ± 10"]


def test_class_maps_are_scored_as_such_and_larger_is_better(page: Page) -> None:
    assert rows_of(page, "fsq-vit")[4][1:4] == ["3 of 3", "49.0 % best ± 1.0", "39.0 % best ± 1.0"]
    assert rows_of(page, "vq-diffusion")[4][2] == "24.0 % ± 1.0"


def test_training_is_told_apart(page: Page) -> None:
    # 80, 88 and 96 samples a second in batches of 8; a spike of 6 over 2; warm-up left out.
    assert rows_of(page, "fsq-gan")[1] == [
        "fsq-gan", "11.0 ± 1.0", "0.500", "0.0450", "2.00 ± 0.00", "3.00 ± 0.00",
    ]  # fmt: skip
    assert rows_of(page, "fsq-vit")[1][3] == "–"


def test_the_baseline_has_its_own_row(page: Page) -> None:
    rows = rows_of(page, "resampling, 179 bytes")
    assert len(rows) == 3
    assert rows[0][1:4] == ["13 × 13 cells", "33.0", "44.0"]
    assert rows[2][1:4] == ["13 × 13 cells", "70.0 %", "50.0 %"]
    assert rows[0][-1] == "–"


def test_every_arm_has_a_line_in_every_panel_and_a_picture_in_every_row(page: Page) -> None:
    lines = [a["class"] for a in page.all("polyline")]
    # Loss, gradient, perplexity; S2L2A and DEM with four scores, LULC with two.
    assert len(lines) == 6 * (7 + 7 + 5)
    assert len(set(lines)) == 6
    assert len(page.all("polygon")) == len(lines)
    alts = [a["alt"] for a in page.all("img")]
    for name in ("S2L2A", "DEM", "LULC"):
        for way in ("truth", *ARMS, "resampling"):
            assert sum(alt.startswith(f"{name} {way}, window") for alt in alts) == 3


def test_data_budget_seeds_and_provenance_are_told(page: Page, comparison: Path) -> None:
    assert SYNTHETIC in page.text
    assert "The budget is the same for all arms of a modality: 100 steps of 8 windows" in page.text
    assert "3 seeds per arm." in page.text
    assert "1 rank each" in page.text
    assert page.row("DEM vq-gan, seed 2")[1] == "finished"
    assert "tokenizer.decoder=diffusion" in page.text
    assert all(name in page.text for name in ("fsq-vit", "Reconstructions"))
    assert len(rows_of(page, "fsq-vit")) == 7


def test_the_page_is_small(comparison: Path, tmp_path: Path) -> None:
    read(comparison, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < LIMIT_BYTES / 2


def test_runs_that_are_missing_unfinished_or_failed_are_told(small: Path, tmp_path: Path) -> None:
    dem = small / "stage1" / "DEM"
    shutil.rmtree(dem / "fsq-vit" / "seed-0")
    unfinished, failed, crashed = (dem / f"{a}/seed-1" for a in ("fsq-gan", "vq-gan", "vq-vit"))
    for folder in (unfinished, failed, crashed):
        (folder / "DONE").unlink()
        (folder / "baseline.json").unlink()
    path = failed / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:7]) + "\n")
    (failed / "FAILED").write_text(json.dumps({"code": 65, "reason": "the loss is not finite"}))
    (crashed / "exits.jsonl").write_text(
        '{"code": 75, "again": true}\n{"code": 1, "again": false}\n'
    )
    page = read(small, tmp_path / "r.html")
    assert "DEM fsq-vit, seed 0: not started" in page.text
    assert "DEM fsq-gan, seed 1: unfinished: step 100 of 100" in page.text
    assert "DEM vq-gan, seed 1: failed at step 35: the loss is not finite" in page.text
    assert "DEM vq-vit, seed 1: failed at step 100: exit code 1" in page.text
    assert "S2L2A vq-diffusion, seed 1: not started" in page.text
    row = next(r for r in rows_of(page, "vq-gan") if r[1] == "1 of 2, 1 failed")
    # What is left of two seeds is one value, which has no spread.
    assert row[3] == "65.0"
    assert page.row("DEM vq-gan, seed 1")[1].startswith("failed")
    assert "8 of 36" in page.text


def test_one_seed_shows_no_spread(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "one", "seeds=[7]", skip=("stage1/S2L2A", "stage1/DEM"))
    page = read(folder, tmp_path / "r.html")
    assert "±" not in page.text
    assert not page.all("polygon")
    assert "1 seed per arm." in page.text
    assert "One says nothing about chance." in page.text


def test_nothing_run_yet_is_a_page_too(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "none", skip=("stage1",))
    page = read(folder, tmp_path / "r.html")
    assert "0 of 54" in page.text
    assert "No run has left metrics.jsonl yet." in page.text
    shutil.rmtree(folder / "shards")
    assert SYNTHETIC in read(folder, tmp_path / "r.html").text
    assert "No run has started, so nothing is known about budgets." in page.text


def test_an_unequal_budget_is_told(tmp_path: Path) -> None:
    folder = make_comparison(
        tmp_path / "unequal",
        "seeds=[0]",
        "arms.vq-vit=[tokenizer.quantizer=vq,engine.global_batch=16]",
        skip=("stage1/S2L2A", "stage1/LULC"),
    )
    text = read(folder, tmp_path / "r.html").text
    assert (
        "The budget is not the same for all arms. Different are: engine.global_batch (DEM)." in text
    )


def test_other_windows_are_not_shown_beside_each_other(small: Path, tmp_path: Path) -> None:
    import numpy as np

    path = small / "stage1/DEM/vq-vit/seed-0/reconstructions.npz"
    arrays = dict(np.load(path))
    arrays["truth"] = arrays["truth"] + 1
    np.savez(path, allow_pickle=False, **arrays)
    page = read(small, tmp_path / "r.html")
    assert "shows other windows" in page.text
    assert not any(a["alt"].startswith("DEM vq-vit, window") for a in page.all("img"))


def test_folders_that_are_no_part_of_it_are_told(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small / "stage1/DEM/vq-vit", small / "stage1/DEM/older")
    text = read(small, tmp_path / "r.html").text
    assert "DEM/older/seed-0 is no part of the comparison" in text


def test_terminal_gets_the_means(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(comparison, tmp_path / "r.html")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str((tmp_path / "r.html").resolve())
    row = next(line for line in lines if "vq-vit" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "vq-vit", "28.0", "56.0", "24.0", "0.440", "50.0 %", "3 of 3",
    ]  # fmt: skip
    assert all(len(line) <= 120 for line in lines[:-1])


def test_a_deviation_is_that_of_a_sample() -> None:
    from pipeline.report.comparison import spread_of

    assert spread_of([1.0, 2.0, 4.0]) == (
        pytest.approx(7 / 3),
        pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)),
    )
    assert spread_of([3.0]) == (3.0, None)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_draws_without_errors(comparison: Path, tmp_path: Path, width: int) -> None:
    if program := chromium.missing():
        pytest.skip(f"{program} is not installed")
    check_page(comparison, tmp_path, width)
