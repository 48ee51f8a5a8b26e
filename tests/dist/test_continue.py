"""Continual pretraining by the real commands: from a run, with and without an added modality."""

import json

import pytest

from tests.dist.ranks import Ranks, run_ranks

pytestmark = pytest.mark.dist


def final_eval(folder) -> dict[str, float]:
    found = json.loads((folder / "DONE").read_text())
    del found["step"]
    assert found
    return found


def test_a_run_goes_on_from_another(stage2_argv, tmp_path):
    argv, out = stage2_argv
    run_ranks([*argv, "engine.num_steps=6"], 1, tmp_path / "first")
    again = [*argv, f"masked.init_from={out}", "engine.num_steps=1"]
    # A step so small that nothing moves: what is evaluated is where the run starts.
    still = [*again, f"out={tmp_path / 'still'}", "engine.optimizer.lr=1e-12"]
    output = run_ranks(still, 2, tmp_path / "second")
    assert output.count(f"from {out / 'artifact'}: ") == 1
    assert "new:" not in output
    assert final_eval(tmp_path / "still") == pytest.approx(final_eval(out), rel=1e-4)

    more = [*again, f"out={tmp_path / 'more'}", "engine.num_steps=4"]
    more += [
        "masked.pixels=[S2L2A,S1GRD,Landsat]",
        "masked.patch_px={S2L2A: 8, S1GRD: 8, Landsat: 4}",
    ]
    output = run_ranks(more, 1, tmp_path / "third")
    assert "new: Landsat@px (not in the artifact)" in output

    wide = Ranks([*again, f"out={tmp_path / 'wide'}", "masked.width=48"], 1, tmp_path / "fourth")
    assert wide.wait() == [2]
    assert "write masked.width=32" in wide.output()
