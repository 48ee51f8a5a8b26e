"""What was seen of a run while it trained, on the page about it."""

import json

import pytest

from tests.report.conftest import Page, read
from tests.report.made_up import make_generation, make_shards, make_stage2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A run that was looked at three times; the first sheet is not among the last two, the last is lost."""
    folder = tmp_path_factory.mktemp("seen")
    dataset = make_shards(folder / "shards", 20)
    run = make_stage2(folder, dataset)
    (run / "monitor").mkdir()
    with (run / "metrics.jsonl").open("a") as file:
        for number, step in enumerate((200, 400, 800)):
            if step < 800:
                sheet = make_generation(folder, dataset, "S2L2A", ["LULC"])
                sheet.rename(run / "monitor" / f"step-{step:08d}")
            values = {"linear/LULC": 0.5 + 0.1 * number, "knn/LULC": 0.4, "seconds": 1.5}
            file.write(json.dumps({"step": step, "monitor": values}) + "\n")
    return read(run, folder / "report.html")


def test_probes_are_curves_over_the_steps(page: Page) -> None:
    assert "LULC: share told right" in page.text
    assert "70.0 % linear classifier, 40.0 % nearest neighbours" in page.text
    assert len([a for a in page.all("polyline") if a["class"] == "arm arm-0"]) == 1
    assert "3 looks, 4.5 s in all" in page.text


def test_sheets_of_the_last_looks_are_shown_with_their_steps(page: Page) -> None:
    assert "S2L2A → LULC at step 400" in page.text
    assert "at step 200" not in page.text
    assert "at step 800" not in page.text
    assert any(a["alt"].startswith("LULC generated") for a in page.all("img"))


def test_a_run_that_nobody_looked_at_has_no_such_part(finished: Page) -> None:
    assert "Seen while training" not in finished.text
