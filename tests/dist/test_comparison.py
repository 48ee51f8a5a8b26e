"""A comparison of tokenizers from one command: shards, runs, page; and what a second one does."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dist.ranks import ROOT

pytestmark = pytest.mark.dist

PLAN = """
kind: comparison
title: Two arms
out: {out}
shards: {{config: configs/shards/synthetic.yaml, overrides: [source.num_samples=48]}}
stage1:
  config: configs/stage1/compare.yaml
  overrides: [engine.num_steps=4, engine.log_every=2, engine.eval_every=2, engine.eval_samples=2,
              tokenizer.width=24, tokenizer.gan.start_step=1]
modalities: {{DEM: []}}
arms:
  fsq-vit: []
  vq-gan: [tokenizer.quantizer=vq, tokenizer.vq.num_codes=64, tokenizer.decoder=gan]
seeds: [0, 1]
"""


def submit(plan: Path) -> str:
    """What the one command says."""
    result = subprocess.run(
        [sys.executable, "-m", "launch.submit", "all", "--config", str(plan), "--cluster", "local"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_one_command_compares_tokenizers_and_another_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "compared"
    (tmp_path / "plan.yaml").write_text(PLAN.format(out=out))
    said = submit(tmp_path / "plan.yaml")
    assert "[6/6] report" in said
    for arm in ("fsq-vit", "vq-gan"):
        for seed in (0, 1):
            assert (out / "stage1" / "DEM" / arm / f"seed-{seed}" / "DONE").is_file()
    page = (out / "report.html").read_text()
    assert "fsq-vit" in page
    assert "resampling" in page
    assert "not in these numbers" not in page

    shutil.rmtree(out / "stage1" / "DEM" / "vq-gan" / "seed-1")
    said = submit(tmp_path / "plan.yaml")
    assert said.count("skipped") == 4
    assert (out / "stage1" / "DEM" / "vq-gan" / "seed-1" / "DONE").is_file()
