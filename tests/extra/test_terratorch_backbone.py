"""The backbone that TerraTorch's own registry builds is the encoder."""

import pytest
import torch

from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from tests.extra.conftest import RunPublic
from tests.pipeline.test_encoder import NORMALISERS, build

pytestmark = pytest.mark.terratorch


@torch.no_grad()
def test_terratorch_builds_our_encoder(run_public: RunPublic, tmp_path):
    artifact.save(build("terramind"), NORMALISERS, tmp_path / "artifact")
    found = run_public("public_backbone.py", tmp_path, borrows=True)
    assert found["out_channels"] == [[16, 16], [16], [32, 32]]
    encoder, given = Encoder.from_pretrained(tmp_path, ["S1GRD", "DEM"]), found["given"]
    for how in ("mean", "concat"):
        for ours, theirs in zip(encoder(given, merge=how), found[how], strict=True):
            torch.testing.assert_close(ours, theirs)
    (ours,) = encoder({"S1GRD": given["S1GRD"]}, [-1], "mean")
    torch.testing.assert_close(ours, found["single"][0])
    for image, tokens in zip(found["images"], found["mean"], strict=True):
        assert image.shape == (2, 16, 4, 4)
        torch.testing.assert_close(image.flatten(2).transpose(1, 2), tokens)
