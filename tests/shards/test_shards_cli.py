import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.dataset import Dataset
from tests.shards.helpers import ROOT, command_for, run_shards


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['shards', '--help']\n"
        "try: runpy.run_module('shards', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'rasterio', 'matplotlib', 'blosc2', 'pyarrow', 'numpy', 'mpi4py'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    start_s = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    elapsed_s = time.monotonic() - start_s
    assert "LOADED []" in result.stdout
    for command in ("plan", "build", "verify", "inspect", "preview"):
        assert command in result.stdout
    assert elapsed_s < 0.7 * 3, "three times the promise, for a busy machine"


def test_plan_shows_and_writes_nothing(collection: Path, tmp_path: Path) -> None:
    arguments = command_for(collection, tmp_path / "set")[1:]
    result = run_shards("plan", *arguments, "--json")
    plan = json.loads(result.stdout)
    assert plan["num_samples"] == 10
    assert [(s["split"], s["samples"]) for s in plan["splits"]] == [("train", 8), ("val", 2)]
    assert not (tmp_path / "set").exists()
    assert "train" in run_shards("plan", *arguments).stdout


def test_build_verify_inspect_preview_from_the_command_line(
    collection: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    result = run_shards(*command_for(collection, out), "--json")
    assert json.loads(result.stdout)["num_built"] == 3
    assert json.loads(run_shards("verify", str(out), "--json").stdout)["ok"] is True
    shown = json.loads(run_shards("inspect", str(out), "--json").stdout)
    assert [m["present"] for m in shown["modalities"]] == [10, 6, 10, 7, 10, 10]
    assert "S2L2A" in run_shards("inspect", str(out)).stdout
    sample = run_shards("inspect", str(out), "place3").stdout
    assert "12 x 24 x 24" in sample
    assert "missing" in sample
    sheet = tmp_path / "sheet.png"
    assert run_shards("preview", str(out), "--out", str(sheet), "--num", "2").returncode == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_user_errors_end_with_status_2_and_no_traceback(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", "configs/shards/geotiff.yaml"]
    nowhere = f"source.path={tmp_path / 'nowhere'}"
    cases = [
        (["build", *config, nowhere, f"out={tmp_path / 'o'}"], "no such folder"),
        (["build", *config, nowhere, "sampels_per_shard=3"], "did you mean 'samples_per_shard'"),
        (["build", "--config", "configs/shards/geotif.yaml"], "Did you mean"),
        (["inspect", str(tmp_path)], "no manifest"),
        (["inspect", str(dataset.path), "nobody"], "no sample 'nobody'"),
        (["preview", str(dataset.path), "--out", "x.png", "--split", "test"], "no split 'test'"),
        (["verify", str(dataset.path), "--level", "deep"], "no level 'deep'"),
    ]
    for arguments, told in cases:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2, arguments
        message = capsys.readouterr().err
        assert message.startswith("error: "), message
        assert told in message
    result = run_shards(*cases[0][0])
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
