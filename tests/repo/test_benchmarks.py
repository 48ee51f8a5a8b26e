"""The benchmarks run, on little; what they measure is for people to read."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*argv: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_benchmark_starts_as_a_file_from_any_folder(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    files = [f for f in sorted((ROOT / "benchmarks").glob("*.py")) if f.name[0] != "_"]
    started = {
        f.name: subprocess.Popen(
            [sys.executable, str(f), "--help"],
            cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for f in files
    }  # fmt: skip
    said = {name: process.communicate(timeout=300) for name, process in started.items()}
    failed = {name: said[name][1] for name, process in started.items() if process.returncode}
    assert started
    assert not failed, failed
    assert all(b"usage" in out.lower() for out, _ in said.values())


def test_scale_measures_every_step(tmp_path: Path) -> None:
    output = run("benchmarks/scale.py", "--samples", "20000", "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    steps = {row["step"] for row in rows}
    assert {"plan", "index: open", "order: resume anywhere, first batch"} <= steps
    assert {row["samples"] for row in rows} == {20_000, 1_000_000_000}
    assert output.count("\n") == len(rows) + 1


def test_masking_measures_every_strategy_on_every_layout(tmp_path: Path) -> None:
    argv = ("benchmarks/masking.py", "--samples", "20", "--json", tmp_path / "rows.json")
    output = run(*argv)
    rows = json.loads((tmp_path / "rows.json").read_text())
    kinds = {row["strategy"] for row in rows}
    assert {"dirichlet", "random", "block", "tube", "single"} <= kinds
    assert len(rows) == len(kinds) * len({row["layout"] for row in rows})
    assert all(row["us"] > 0 and row["bound_us"] > 0 for row in rows)
    assert output.count("\n") == len(rows) + 1


def test_codecs_and_readers_measure_a_data_set(tmp_path: Path) -> None:
    build = ("build", "--config", "configs/shards/synthetic.yaml", f"out={tmp_path / 'set'}")
    run("-m", "shards", *build, "source.num_samples=12", "source.tile_px=24", "--quiet")
    output = run("benchmarks/codecs.py", tmp_path / "set", "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert all(row["ratio"] > 0 for row in rows)
    maps = {row["modality"] for row in rows}
    assert maps >= {"S2L2A", "DEM", "LULC"}
    assert all(sum(r["best"] for r in rows if r["modality"] == name) == 1 for name in maps)
    assert len(output.splitlines()) == len(rows) + 1
    argv = ("--modalities", "DEM", "--batch", "2", "--steps", "2", "--workers", "1")
    assert "threads / processes" in run("benchmarks/readers.py", tmp_path / "set", *argv)


def test_tiled_inference_is_measured(tmp_path: Path) -> None:
    run(
        "benchmarks/transfer.py",
        "--side",
        "500",
        "--window-px",
        "96",
        "--json",
        tmp_path / "x.json",
    )
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["pixels_per_s"] > 0
    assert found["beyond_mb"] < 2048
