"""The whole chain of an experiment, small: from nothing to scores and a report, twice."""

import json
import subprocess
import sys
import time

import pytest
import yaml

from tests.dist.conftest import TINY_TOKENIZER
from tests.dist.ranks import ROOT

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment file that runs in a minute, and its folder."""
    folder = tmp_path_factory.mktemp("experiment")
    names = "[LULC,DEM,captions,coordinates,date]"
    values = {
        "kind": "experiment",
        "title": "tiny",
        "out": str(folder / "out"),
        "synthetic": True,
        "shards": {
            "config": "configs/shards/synthetic.yaml",
            "overrides": ["source.num_samples=64", "source.tile_px=24", "samples_per_shard=16"],
        },
        "stage1_base": {"config": "configs/stage1/small.yaml", "overrides": TINY_TOKENIZER},
        "stage1": {"LULC": [], "DEM": [], "captions": []},
        "tokenize": {"config": "configs/tokenize/small.yaml"},
        "stage2": {
            "config": "configs/stage2/small.yaml",
            "overrides": [
                "masked.pixels=[S2L2A]", "masked.patch_px={S2L2A: 8}", f"masked.tokens={names}",
                f"masked.targets={names}", "masked.width=32", "masked.heads=2", "masked.encoder_depth=1",
                "masked.decoder_depth=1", "engine.num_steps=4", "engine.global_batch=4",
            ],
        },
        "generate": {
            "from-S2L2A": {
                "config": "configs/generate/small.yaml",
                "overrides": ["num_samples=4", "batch=3"],
                "source": ["S2L2A"],
                "target": ["LULC", "DEM", "captions", "coordinates", "date"],
            }
        },
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, folder / "out"


def run_all(path):
    command = [
        sys.executable,
        "-m",
        "launch.submit",
        "all",
        "--config",
        str(path),
        "--cluster",
        "local",
    ]
    started = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, time.monotonic() - started


def test_one_command_makes_everything_and_the_second_finds_it_done(experiment):
    path, out = experiment
    _, first_s = run_all(path)
    scores = json.loads((out / "generate" / "from-S2L2A" / "scores.json").read_text())
    assert scores["num_samples"] == 4
    assert set(scores["scores"]) == {"LULC", "DEM"}
    for metrics in scores["scores"].values():
        for ways in metrics.values():
            assert set(ways) == {"model", "baseline", "climatology", "tokens"}
    assert (out / "generate" / "from-S2L2A" / "sheet.png").stat().st_size > 10_000
    page = (out / "report.html").read_text()
    assert "S2L2A" in page
    curve = (out / "stage2" / "metrics.jsonl").read_text()
    manifest = (out / "shards" / "manifest.json").read_text()

    again, second_s = run_all(path)
    assert (out / "stage2" / "metrics.jsonl").read_text() == curve
    assert (out / "shards" / "manifest.json").read_text() == manifest
    assert second_s < first_s / 2
    assert "report.html" in again
