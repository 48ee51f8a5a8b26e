"""Every masking strategy in one run with missing modalities, then a text written by its model."""

import numpy as np
import pytest

from tests.dist.ranks import run_ranks

pytestmark = pytest.mark.dist

KINDS = "[{kind: dirichlet}, {kind: random}, {kind: block}, {kind: tube}, {kind: single, of: any}]"


@pytest.mark.parametrize("sequences", ["prefix", "span"])
def test_a_run_with_all_strategies_writes_captions(tiny_stage2, tokens, tmp_path, sequences):
    arguments = [f"masked.masking={KINDS}", f"masked.sequences={sequences}"]
    run_ranks(["pipeline", *tiny_stage2(tmp_path / "run"), *arguments], 2, tmp_path / "logs")
    run_ranks(
        ["pipeline", "generate", "--config", "configs/generate/small.yaml", f"out={tmp_path / 'out'}",
         f"run={tmp_path / 'run'}", f"data.shards={tokens}", "source=[S2L2A]", "target=[captions]",
         "num_samples=2", "split=train"],
        1, tmp_path / "logs",
    )  # fmt: skip
    written = np.load(tmp_path / "out" / "samples.npz")["generated/captions"]
    assert written.shape == (2,)
    assert all(len(text) for text in written)
