"""Weights go to timm's VisionTransformer and come back, and features are the same."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.multimae.vit import from_vit, to_vit
from tests.extra.conftest import RunPublic
from tests.pipeline.multimae_twin import NORMALISERS, ROWS, model

pytestmark = pytest.mark.terratorch


@pytest.mark.parametrize("num_global", [0, 1, 3])
@torch.no_grad()
def test_features_of_timm_are_ours(run_public: RunPublic, tmp_path, num_global) -> None:
    net = model(num_global_tokens=num_global).float()
    save_file(to_vit(net, "rgb"), tmp_path / "vit.safetensors")
    found = run_public("public_vit.py", tmp_path / "vit.safetensors", str(num_global))
    encoder = MultiMAEEncoder(net.table, net.config, ROWS, NORMALISERS).eval()
    given = found["given"] * 200 + 500

    def features() -> torch.Tensor:
        encoder.load_state_dict(net.state_dict(), strict=False)
        (last,) = encoder({"rgb": given}, [-1])
        assert isinstance(last, dict)
        return last["rgb"]

    theirs = found["ours_in"][:, num_global:]
    torch.testing.assert_close(features(), theirs, rtol=1e-4, atol=1e-4)
    # timm's own weights come in; its positions are parameters, which fixed ones cannot hold.
    taken = from_vit(net, found["drawn"])
    assert taken.left == ("pos_embed",)
    net.positions.table[:16] = found["drawn"]["pos_embed"][0, num_global:]
    encoder.positions.table[:16] = net.positions.table[:16]
    if num_global:
        encoder_tokens = found["drawn"]["pos_embed"][0, :num_global]
        assert net.global_tokens is not None
        net.global_tokens += encoder_tokens
    own = found["own"][:, num_global:]
    torch.testing.assert_close(features(), own, rtol=1e-4, atol=1e-4)
