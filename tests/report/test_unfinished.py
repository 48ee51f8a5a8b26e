"""Pages about runs that are under way, were killed, or are damaged: named, never a crash."""

import shutil
from pathlib import Path

import pytest

from tests.report.conftest import read
from tests.report.made_up import make_experiment, make_shards, make_stage2, make_tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment with few pictures."""
    folder = tmp_path_factory.mktemp("small") / "made-up"
    return make_experiment(folder, 20, stage1=("DEM", "captions"), targets=("LULC",))


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """An experiment of one's own to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    return folder


def test_empty_folder_names_every_missing_part(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    text = read(folder, tmp_path / "r.html").text
    for part in ("shards/manifest.json", "stage1/", "stage2/", "generate/"):
        assert f"{part} is missing" in text
    assert "Nothing has been run here yet." in text


@pytest.mark.parametrize("part", ["shards", "stage1", "stage2", "generate"])
def test_one_missing_part_leaves_the_others(copy: Path, tmp_path: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    page = read(copy, tmp_path / "r.html")
    assert page.text.count("is missing") == 1
    assert len(page.all("img")) > 15


def test_running_tokenizer_is_shown_as_unfinished(tmp_path: Path) -> None:
    dataset = make_shards(tmp_path / "shards", 20)
    make_tokenizer(tmp_path, dataset, "DEM", last_step=150)
    page = read(tmp_path, tmp_path / "r.html")
    assert page.row("DEM", "m")[-1] == "unfinished: step 150 of 300"
    assert page.row("stage 1 DEM")[6] == "100"
    assert "DEM: unfinished, no reconstructions.npz yet." in page.text
    assert "1 unfinished" in page.text
    assert page.all("polyline")


def test_killed_stage2_is_shown_as_unfinished(copy: Path, tmp_path: Path) -> None:
    from shards import open_dataset

    shutil.rmtree(copy / "stage2")
    make_stage2(copy, open_dataset(copy / "shards"), last_step=420)
    page = read(copy, tmp_path / "r.html")
    assert page.row("stage 2")[1] == "unfinished: step 420 of 800"
    assert "stage2: not evaluated on held-out samples yet." in page.text


def test_half_written_metrics_lines_survive(copy: Path, tmp_path: Path) -> None:
    path = copy / "stage2" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    broken = [*lines[:40], '{"step": 410, "lo', "[1]", '{"loss": 2}', '{"step": 420, "loss": NaN}']
    path.write_text("\n".join([*broken, '{"step": 430, "eval": {"loss"']))
    page = read(copy, tmp_path / "r.html")
    assert "nan" not in " ".join(a["points"] for a in page.all("polyline")).lower()
    assert "stage2: not evaluated on held-out samples yet." in page.text


def test_generation_without_scores_or_samples(copy: Path, tmp_path: Path) -> None:
    (copy / "generate" / "from-S2L2A" / "scores.json").unlink()
    (copy / "generate" / "from-S1GRD" / "samples.npz").unlink()
    text = read(copy, tmp_path / "r.html").text
    assert "from-S2L2A: unfinished, no scores.json yet." in text
    assert "from-S1GRD: unfinished, no samples.npz yet." in text


@pytest.mark.parametrize(
    "path",
    [
        "shards/manifest.json", "stage1/DEM/config.yaml", "stage1/DEM/run.json",
        "stage1/DEM/reconstructions.npz", "stage1/DEM/DONE", "stage2/config.yaml",
        "generate/from-S2L2A/scores.json", "generate/from-S2L2A/samples.npz",
    ],
)  # fmt: skip
def test_damaged_files_are_named(copy: Path, tmp_path: Path, path: str) -> None:
    (copy / path).write_bytes(b"\x7b: [\xff")
    text = read(copy, tmp_path / "r.html").text
    assert "What could not be read" in text
    assert path in text


def test_truncated_shard_is_named(copy: Path, tmp_path: Path) -> None:
    tar = next((copy / "shards" / "val").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    text = read(copy, tmp_path / "r.html").text
    assert "The shards cannot be read" in text
    assert tar.name in text


def test_damaged_sample_is_named(copy: Path, tmp_path: Path) -> None:
    for tar in (copy / "shards" / "val").glob("*.tar"):
        content = bytearray(tar.read_bytes())
        content[1024 : len(content) // 2] = bytes(len(content) // 2 - 1024)
        tar.write_bytes(content)
    page = read(copy, tmp_path / "r.html")
    assert "Samples cannot be shown" in page.text
    assert page.row("S2L2A", "Sentinel-2 L2A surface reflectance")


def test_single_runs_have_pages(small: Path, tmp_path: Path) -> None:
    for part, title in {
        "shards": "Samples in the shards",
        "stage1/DEM": "Stage 1: tokenizers",
        "stage2": "Stage 2: masked transformer",
        "generate/from-S1GRD": "Scores",
    }.items():
        text = read(small / part, tmp_path / "r.html").text
        assert title in text
        assert "is missing" not in text
