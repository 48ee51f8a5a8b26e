"""A ViT of the public timm package as a backbone of a task."""

import pytest
import torch

from tests.extra.conftest import RunPublic

pytestmark = pytest.mark.terratorch


def test_a_vit_of_timm_takes_images_of_two_grids_one_of_them_missing(run_public: RunPublic) -> None:
    found = run_public("public_timm_backbone.py", borrows=True)
    assert found["patch_px"] == {"S2": 16, "L8": 5}
    assert found["shapes"] == [(2, 192, 3, 3)] * 2
    # The first sample has no Landsat: whatever stands in its place says nothing.
    assert torch.allclose(found["given"][0], found["other"][0])
    assert not torch.allclose(found["given"][1], found["other"][1])
    assert found["levels"] == [0, 5, 13]
