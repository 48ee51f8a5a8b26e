"""The backbone without TerraTorch around it; with it, see tests/extra."""

import importlib.util

import pytest
import torch

from pipeline.engine.errors import RunError
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.terratorch_backbone import Backbone, register
from tests.pipeline.test_encoder import NORMALISERS, build, physical


@pytest.fixture
def run(tmp_path):
    artifact.save(build("4m"), NORMALISERS, tmp_path / "artifact")
    return tmp_path


@pytest.mark.skipif(
    importlib.util.find_spec("terratorch") is not None, reason="terratorch is installed"
)
def test_without_terratorch_it_says_what_to_install():
    with pytest.raises(RunError, match="pip install terratorch"):
        register()


def test_all_pixel_modalities_are_expected_by_default(run):
    backbone = Backbone(run, merge_method="concat")
    assert backbone.modalities == ("S1GRD", "DEM")
    assert backbone.out_channels == [32, 32]
    assert backbone.patch_size == 4
    found = backbone({"S1GRD": physical()["S1GRD"]})
    assert [f.shape for f in found] == [(2, 16, 32)] * 2


@torch.no_grad()
def test_standardised_images_can_be_given(run):
    given = {n: x.float() for n, x in physical().items()}
    given = {n: torch.nan_to_num(x, 0.0).clamp(min=-100) for n, x in given.items()}
    encoder = Encoder.from_pretrained(run)
    ready = {n: encoder.standardise[n](x) for n, x in given.items()}
    expected = Backbone(run)(given)
    found = Backbone(run, standardise=False)(ready)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_can_be_trained(run):
    backbone = Backbone(run, layers=[-1]).train()
    (found,) = backbone(physical())
    found.square().mean().backward()
    grads = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    assert any(g.any() for n, g in grads.items() if "patch_proj.S1GRD" in n)


def test_a_merge_that_gives_no_tensor_is_refused(run):
    with pytest.raises(ValueError, match="choose mean, max or concat"):
        Backbone(run, merge_method="none")
