"""Models for others: what is written, that it is the same model, and its ONNX graph."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.__main__ import main
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from tests.pipeline.test_encoder import NORMALISERS, build, physical


@pytest.fixture
def run(tmp_path):
    artifact.save(build("4m"), NORMALISERS, tmp_path / "run" / "artifact")
    return tmp_path / "run"


def saved(path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@torch.no_grad()
def test_the_encoder_is_written_with_table_and_statistics(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--run", str(run), "--out", str(out)]) == 0
    assert "the encoder" in capsys.readouterr().out
    record = json.loads((out / "config.json").read_text())
    assert record["holds"] == "encoder"
    assert list(record["modalities"]) == ["S1GRD", "DEM", "LULC", "captions"]
    assert record["modalities"]["S1GRD"]["bands"] == ["VV", "VH"]
    assert record["pixels"]["DEM"]["statistics"] == {"mean": [400.0], "std": [300.0]}
    assert not [name for name in saved(out) if name.startswith(("decoder", "context", "mask"))]
    before, after = Encoder.from_pretrained(run), Encoder.from_pretrained(out)
    ours, theirs = (e(physical())[-1] for e in (before, after))
    assert all(torch.equal(ours[n], theirs[n]) for n in ("S1GRD", "DEM"))


def test_training_goes_on_from_a_whole_model_only(run, tmp_path, capsys):
    argv = ["export", "--run", str(run), "--out"]
    assert main([*argv, str(tmp_path / "whole"), "--whole"]) == 0
    model, _ = artifact.load(tmp_path / "whole")
    old, _ = artifact.load(run / "artifact")
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in model.state_dict().items())
    assert main([*argv, str(tmp_path / "part")]) == 0
    capsys.readouterr()
    assert main(["export", "--run", str(tmp_path / "part"), "--out", "x", "--whole"]) == 2
    assert "tensors less than a whole model" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(run, tmp_path, capsys):
    argv = ["export", "--run", str(run), "--out", str(tmp_path / "out")]
    assert main([*argv, "--onnx", "S2L2A"]) == 2
    assert "does not take S2L2A" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--merge", "median"]) == 2
    assert "choose none, mean, max or concat" in capsys.readouterr().err
    assert main(argv) == 0
    assert main(argv) == 2
    assert "exists; remove it" in capsys.readouterr().err
    assert main(["export", "--run", str(tmp_path), "--out", str(tmp_path / "b")]) == 2
    assert "no model in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("style", "names", "merge"),
    [
        ("4m", ("S1GRD", "DEM"), "none"),
        ("rotary", ("S1GRD", "LULC"), "mean"),
    ],
)
@torch.no_grad()
def test_the_onnx_graph_computes_the_same(style, names, merge, tmp_path):
    artifact.save(build(style, encoder_depth=1), NORMALISERS, tmp_path / "run" / "artifact")
    argv = ["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--onnx", ",".join(names), "--merge", merge]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "out" / "encoder.onnx")
    # Another batch than it was traced with, with pixels that carry no measurement.
    given = {k: v.float() for k, v in physical(batch=3).items()}
    given["LULC"] = torch.tensor([[0, 1, 2, 3], [6, 6, 5, 4], [1, 0, 1, 0]])
    given = {n: given[n] for n in names}
    encoder = Encoder.from_pretrained(tmp_path / "run")
    (expected,) = encoder(given, [-1], merge)
    found = session.run(None, {n: v.numpy() for n, v in given.items()})
    wanted = [expected[n] for n in names] if isinstance(expected, dict) else [expected]
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), atol=1e-5, rtol=1e-5)
