"""The page about a finished experiment: self-contained, complete, with the numbers that were left."""

import base64
import html
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import ConfigError
from pipeline.report.collect import Found
from pipeline.report.glance import SYNTHETIC
from pipeline.report.page import LIMIT_BYTES, write_report
from pipeline.report.pictures import data_uri
from pipeline.report.scores import picture_score
from shards import open_dataset
from shards.render import render_maps
from tests.report.conftest import Page, read
from tests.report.made_up import IMAGES, NUM_PICTURES, TARGETS, make_generation, make_shards


def decoded(source: str) -> np.ndarray:
    """The pixels of a data: picture."""
    head, _, text = source.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_nothing_is_loaded_from_elsewhere(finished: Page) -> None:
    assert not finished.all("script")
    for name, attributes in finished.elements:
        for key in ("src", "href", "srcset", "data", "action", "poster"):
            if key in attributes:
                assert attributes[key].startswith(("data:", "#")), (name, attributes[key])
        assert "url(" not in attributes.get("style", "")


def test_the_style_loads_nothing(experiment: Path, tmp_path: Path) -> None:
    write_report(experiment, tmp_path / "r.html")
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "r.html").read_text(), re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import|http", style[1])


def test_every_picture_opens_and_says_what_it_shows(finished: Page) -> None:
    pictures = finished.all("img")
    assert len(pictures) > 100
    for attributes in pictures:
        assert attributes["alt"].strip()
        height, width, _ = decoded(attributes["src"]).shape
        if attributes["class"] == "map":
            assert (attributes["width"], attributes["height"]) == (str(width), str(height))


def test_generated_and_true_maps_are_drawn_as_stored(experiment: Path, finished: Page) -> None:
    arrays = np.load(experiment / "generate" / "from-S2L2A" / "samples.npz")
    dataset = open_dataset(experiment / "shards")
    row, key = dataset.modalities["DEM"], str(arrays["keys"][0])
    made, true = arrays["generated/DEM"][0], arrays["truth/DEM"][0]
    score = picture_score(made, true, row)
    by_alt = {a["alt"]: a["src"] for a in finished.all("img")}
    expected = render_maps([made, true], row)
    np.testing.assert_array_equal(decoded(by_alt[f"DEM generated, {key}. {score}"]), expected[0])
    truth = next(src for alt, src in by_alt.items() if alt.startswith(f"DEM truth, {key}"))
    np.testing.assert_array_equal(decoded(truth), expected[1])


def test_headings_never_skip_a_level(finished: Page) -> None:
    levels = [int(name[1]) for name, _ in finished.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_links_lead_to_sections(finished: Page) -> None:
    names = {a["id"] for _, a in finished.elements if "id" in a}
    links = {a["href"].removeprefix("#") for a in finished.all("a")}
    assert links <= names
    assert {"generated", "scores", "stage1", "curves", "stage2", "samples", "provenance"} <= links


def test_score_table_holds_the_scores(experiment: Path, finished: Page) -> None:
    scores = json.loads((experiment / "generate/from-S1GRD/scores.json").read_text())["scores"]
    assert finished.row("S1GRD", "LULC", "accuracy")[3:7] == [
        "61.2 %",
        "31.0 %",
        "33.1 %",
        "90.4 %",
    ]
    rmse = scores["CHM"]["rmse"]
    shown = finished.row("S1GRD", "CHM", "RMSE, m")
    ways = ("model", "baseline", "climatology", "tokens")
    assert shown[3:7] == [f"{rmse[way]:.2f}" for way in ways]
    assert shown[9] == "training mean"
    assert finished.row("S1GRD", "LULC", "mIoU")[9] == "most frequent class: trees"


def test_better_and_not_better_differ_in_words(finished: Page) -> None:
    assert "▲ better, −30 % error" in finished.row("S2L2A", "DEM", "RMSE, m")
    assert "▽ not better, +50 % error" in finished.row("S2L2A", "DEM", "MAE, m")
    assert "50 %" in finished.row("S2L2A", "NDVI", "RMSE")


def test_tokenizer_table_holds_the_last_evaluation(finished: Page) -> None:
    lulc = finished.row("LULC", "–", "–")
    assert lulc[4:] == [
        "90.4 %",
        "77.8 %",
        "875",
        "48.7 %",
        "215",
        "8 px",
        "300",
        "83.0",
        "finished",
    ]
    assert finished.row("captions", "–", "–")[6] == "412"
    assert finished.row("S1GRD", "dB")[2] != "–"


def test_cross_entropy_stands_beside_the_uniform_guess(finished: Page) -> None:
    assert finished.row("S2L2A", "3.00") == ["S2L2A", "3.00", "6.77", "30.0 %", "875"]


def test_presence_is_that_of_the_shards(experiment: Path, finished: Page) -> None:
    dataset = open_dataset(experiment / "shards")
    for name, row in dataset.modalities.items():
        shares = [dataset.present(name)[dataset.select(s)].mean() for s in ("train", "val")]
        assert finished.row(name, row.title)[5:] == [f"{100 * s:.1f} %" for s in shares]


def test_words_stand_as_words_and_missing_parts_are_named(experiment: Path, finished: Page) -> None:
    arrays = np.load(experiment / "generate" / "from-S2L2A" / "samples.npz")
    present = arrays["present/truth/captions"]
    assert present.any()
    assert str(arrays["truth/captions"][present.argmax()]) in finished.text
    assert "missing in this sample" in finished.text


def test_provenance_is_complete(experiment: Path, finished: Page) -> None:
    record = json.loads((experiment / "stage2" / "run.json").read_text())
    row = finished.row("stage 2", "finished")
    assert row[3:] == [record["code"], "2", "0", "800", record["dataset"]["fingerprint"]]
    assert finished.row("numpy", np.__version__)[2] == "all runs"
    assert "num_target_tokens: 64" in finished.text


def test_synthetic_data_are_called_so(finished: Page) -> None:
    assert SYNTHETIC in finished.text


def test_real_data_are_not_called_synthetic(experiment: Path, tmp_path: Path) -> None:
    dataset = open_dataset(experiment / "shards")
    assert Found(tmp_path, dataset=dataset).synthetic
    dataset.manifest["source"] = {"type": "geotiff", "path": "x"}
    assert not Found(tmp_path, dataset=dataset).synthetic


def test_unfinished_synthetic_shards_are_called_so(tmp_path: Path) -> None:
    (tmp_path / ".launch").mkdir()
    (tmp_path / ".launch" / "shards.yaml").write_text("source: {type: synthetic}")
    assert SYNTHETIC in read(tmp_path, tmp_path / "r.html").text


def test_no_torch_is_needed(experiment: Path, tmp_path: Path, root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.report.page import write_report; "
        "write_report(Path(sys.argv[1]), Path(sys.argv[2])); assert 'torch' not in sys.modules"
    )
    args = [sys.executable, "-c", code, str(experiment / "stage2"), str(tmp_path / "r.html")]
    subprocess.run(args, cwd=root, check=True, capture_output=True)


def test_text_is_escaped(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "generate" / "<b>&x"
    out.mkdir(parents=True)
    source = experiment / "generate" / "from-S2L2A"
    arrays = dict(np.load(source / "samples.npz"))
    arrays["generated/captions"] = np.array(["<script>alert(1)</script>"] * NUM_PICTURES)
    np.savez(out / "samples.npz", allow_pickle=False, **arrays)
    (out / "scores.json").write_text((source / "scores.json").read_text())
    page = read(tmp_path, tmp_path / "r.html")
    assert not page.all("script")
    assert "<script>alert(1)</script>" in page.text
    assert html.escape("<b>&x") in (tmp_path / "r.html").read_text()


def test_terminal_gets_the_scores_and_last_the_path(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(experiment, tmp_path / "deep" / "r.html")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str((tmp_path / "deep" / "r.html").resolve())
    head = next(line for line in lines if "baseline" in line)
    words = ("from", "to", "metric", "model", "baseline", "climatology", "tokens", "better?")
    assert [head.index(f" {w} ") for w in words] == sorted(head.index(f" {w} ") for w in words)
    row = next(line for line in lines if "S1GRD" in line and "mIoU" in line)
    assert all(
        text in row for text in ("LULC", "40.1 %", "5.1 %", "77.8 %", "better, +35.0 points")
    )
    assert all(len(line) <= 120 for line in lines[:-1])


def test_report_is_small_and_large_maps_shrink(experiment: Path, tmp_path: Path) -> None:
    """Maps of 1024 px would make tens of megabytes; the page stays below its limit."""
    out = tmp_path / "generate" / "big"
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 9999, (2, 12, 1024, 1024)).astype(np.int16)
    record = {"source": ["S2L2A"], "target": ["S2L2A"], "scores": {}}
    (out / "scores.json").write_text(json.dumps(record))
    names = ("source/S2L2A", "generated/S2L2A", "truth/S2L2A")
    np.savez(out / "samples.npz", allow_pickle=False, keys=np.array(["a", "b"]),
             **dict.fromkeys(names, noise))  # fmt: skip
    page = read(tmp_path, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < LIMIT_BYTES
    assert len(page.all("img")) == 6
    assert max(decoded(a["src"]).shape[0] for a in page.all("img")) <= 256
    write_report(experiment, tmp_path / "demo.html")
    assert (tmp_path / "demo.html").stat().st_size < LIMIT_BYTES


def test_pictures_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    few = many[rng.integers(0, 9, (40, 30)), 0]
    for rgb in (many, few):
        np.testing.assert_array_equal(decoded(data_uri(rgb)), rgb)


def test_every_image_modality_shows_its_reconstructions(finished: Page) -> None:
    for name in IMAGES:
        alts = [a["alt"] for a in finished.all("img")]
        assert sum(alt.startswith(f"{name} reconstruction") for alt in alts) == NUM_PICTURES


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        write_report(tmp_path / "nowhere", tmp_path / "r.html")


def test_targets_of_every_task_are_in_its_title(finished: Page) -> None:
    assert f"S1GRD → {', '.join(TARGETS)}" in finished.text


def test_generation_alone_has_a_page(tmp_path: Path) -> None:
    dataset = make_shards(tmp_path / "shards", 20)
    folder = make_generation(tmp_path, dataset, "S1GRD", ["LULC"])
    page = read(folder, tmp_path / "r.html")
    assert page.row("S1GRD", "LULC", "mIoU")
    assert "is missing" not in page.text
    assert SYNTHETIC in page.text
