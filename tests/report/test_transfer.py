"""The page about transfer: every backbone with its numbers, pictures that open, nothing invented."""

import json
from pathlib import Path

import pytest

from configs import load_config, to_yaml
from pipeline.report.page import write_report
from pipeline.transfer.run import transfer
from tests.report.conftest import read
from tests.transfer.test_run import made  # noqa: F401
from tests.transfer.worlds import save_stage2

FILE = "configs/experiments/transfer.yaml"


@pytest.fixture
def results(made) -> Path:  # noqa: F811
    """Two amounts of labels, one seed, masks and their pictures."""
    config = made(fractions=[0.5, 1.0])
    transfer(config)
    return config.out


def test_the_page_of_one_backbone(results, tmp_path, capsys):
    page = read(results, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    lines = [json.loads(x) for x in (results / "results.jsonl").read_text().splitlines()]
    for line in lines:
        assert f"{100 * line['metrics']['miou']['value']:.1f} %" in text
    assert "Confusions of run" in text
    pictures = page.all("img")
    assert len(pictures) >= 12
    assert all(a["alt"].startswith(("predicted", "truth", "Colour", "S2")) for a in pictures)
    assert "masks: miou" in capsys.readouterr().out


def test_a_comparison_shows_all_arms_and_seeds(results, tmp_path):
    folder = tmp_path / "cmp"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(
        to_yaml(load_config(FILE, [f"out={folder}", "seeds=[0,1]"]))
    )
    lines = [json.loads(x) for x in (results / "results.jsonl").read_text().splitlines()]
    for arm, value in (("stage2/seed-0/transfer", 0.5), ("stage2/seed-1/transfer", 0.7),
                       ("stage2/seed-0/transfer-scratch", 0.2), ("fusion/seed-0/transfer", 0.4)):  # fmt: skip
        out = folder / "models" / arm
        out.mkdir(parents=True)
        (out / "config.yaml").write_text((results / "config.yaml").read_text())
        changed = []
        for line in lines:
            score = {"value": value, "low": value - 0.1, "high": value + 0.1}
            seed = int(arm.split("seed-")[1][0])
            changed.append({**line, "seed": seed, "metrics": {**line["metrics"], "miou": score}})
        (out / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in changed))
    write_report(folder, folder / "r.html")
    text = (folder / "r.html").read_text()
    assert "60.0 % ± 14.1" in text
    for words in ("stage2-scratch", "20.0 % (10.0–30.0)", "fusion", "40.0 %"):
        assert words in text
    # The best of a column stands out; evaluations that were not asked for are no part of the page.
    assert "<b>60.0 % ± 14.1</b>" in text
    assert 'id="probes"' not in text


@pytest.mark.parametrize("ended", [True, False])
def test_results_of_other_settings_are_no_seeds(made, tmp_path, ended):  # noqa: F811
    """The page shows the last of them alone, be the folder at its end or not."""
    transfer(made(fit={"num_steps": 8, "batch": 4}))
    config = made()
    transfer(config)
    if not ended:
        (config.out / "scores.json").unlink()
    write_report(config.out, tmp_path / "r.html")
    lines = [json.loads(x) for x in (config.out / "results.jsonl").read_text().splitlines()]
    text = (tmp_path / "r.html").read_text()
    old, new = (f"{100 * x['metrics']['miou']['value']:.1f} %" for x in lines)
    assert new in text
    assert old not in text
    assert "±" not in text


def test_a_folder_that_has_only_begun(tmp_path):
    save_stage2(tmp_path / "run")
    (tmp_path / "config.yaml").write_text("kind: transfer\nbackbone: runs/x\n")
    (tmp_path / "results.jsonl").write_text('{"cell": "a", "task"')
    write_report(tmp_path, tmp_path / "r.html")
    assert "Nothing was judged on labels yet" in (tmp_path / "r.html").read_text()
