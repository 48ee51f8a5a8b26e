"""The encoder of a MultiMAE by itself, and its weights as a ViT's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs import ConfigError
from pipeline.__main__ import main
from pipeline.engine.errors import RunError
from pipeline.layers.positions import resized_positions
from pipeline.multimae import artifact
from pipeline.multimae.artifact import Described
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.multimae.vit import from_vit, start_from, to_vit
from tests.pipeline.multimae_twin import (
    NORMALISERS,
    ROWS,
    SIDE,
    batch,
    masked,
    model,
)


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run, and the model that it left."""
    net = model(num_global_tokens=2).float().eval()
    about = Described(net.table, net.config, ROWS, NORMALISERS)
    artifact.save(net.state_dict(), about, tmp_path / "run" / "artifact")
    return net, tmp_path / "run"


def physical(batch_size: int = 2, side: int = SIDE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, row in ROWS.items():
        shape = (batch_size, row.num_bands, side, side)
        if row.kind == "classes":
            values = torch.tensor([c.value for c in row.classes if c.value], dtype=torch.uint8)
            found[name] = values[torch.randint(len(values), shape, generator=generator)]
        else:
            found[name] = 500 + 200 * torch.randn(shape, generator=generator)
    return found


@torch.no_grad()
def test_features_are_those_of_training_where_everything_is_seen(run) -> None:
    net, folder = run
    encoder = MultiMAEEncoder.from_pretrained(folder)
    everything = {g.name: list(range(g.num_places)) for g in net.table.groups}
    sample = masked(np.random.default_rng(0), net.table, everything)
    given = batch([sample], net.table, torch.float32)
    trained = net.encode(given, net.cut(given))[:, 2:]
    inputs = {
        n: given[n] if ROWS[n].kind == "classes" else given[n] * 200 + 500
        for n in net.table.modalities
    }
    found = encoder(inputs)[-1]
    assert list(found) == [g.name for g in net.table.groups]
    torch.testing.assert_close(torch.cat(list(found.values()), 1), trained, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_group_by_its_own_bands_is_the_group_of_its_modality(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1])
    assert encoder.bands("rgb") == ("B04", "B03", "B02")
    assert encoder.bands("S2L2A") == ROWS["S2L2A"].bands
    x = physical()["S2L2A"]
    bands = {
        name: [ROWS["S2L2A"].bands.index(b) for b in encoder.bands(name)]
        for name in ("rgb", "swir")
    }
    by_modality = encoder({"S2L2A": x})
    by_group = encoder({name: x[:, numbers] for name, numbers in bands.items()})
    assert len(by_modality) == len(by_group) == 2
    for a, b in zip(by_modality, by_group, strict=True):
        assert a.keys() == b.keys() == {"rgb", "swir"}
        for name in a:
            torch.testing.assert_close(a[name], b[name])
    only = encoder({"rgb": x[:, bands["rgb"]]}, layers=[-1])
    assert only[0]["rgb"].shape == (2, 16, 16)
    assert not torch.allclose(only[0]["rgb"], by_modality[-1]["rgb"])


@torch.no_grad()
def test_merged_features_and_samples_that_lack_an_input(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1], ["S2L2A", "S1GRD"])
    inputs = {n: x for n, x in physical().items() if n in ("S2L2A", "S1GRD")}
    there = torch.tensor([True, False])
    (mean,) = encoder(inputs, [-1], "mean", {"S1GRD": there})
    (single,) = encoder({"S2L2A": inputs["S2L2A"][1:]}, [-1], "mean")
    assert mean.shape == (2, 16, 16)
    torch.testing.assert_close(mean[1:], single)
    assert encoder(inputs, [0], "concat")[0].shape == (2, 16, 3 * 16)
    assert encoder({"rgb": inputs["S2L2A"][:, :3]}, [0], "concat")[0].shape == (2, 16, 3 * 16)


@torch.no_grad()
def test_a_patch_without_a_measurement_is_not_looked_at(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1])
    inputs = {"DEM": physical()["DEM"]}
    inputs["DEM"][0, 0, :4, :4] = float(ROWS["DEM"].nodata or 0)
    before = encoder(inputs, [-1])[0]["elevation"]
    inputs["DEM"][0, 0, :4, :4] = float("nan")
    torch.testing.assert_close(before[:, 1:], encoder(inputs, [-1])[0]["elevation"][:, 1:])
    inputs["DEM"][0, 0, :4, :4] = 500.0
    assert not torch.allclose(before[0, 1:], encoder(inputs, [-1])[0]["elevation"][0, 1:])


@torch.no_grad()
def test_positions_of_other_sizes_are_interpolated(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1])
    large = physical(1, 2 * SIDE)["DEM"]
    assert encoder({"DEM": large}, [-1])[0]["elevation"].shape == (1, 64, 16)
    group = next(g for g in encoder.table.groups if g.name == "elevation")
    part, _ = encoder._group(group, "DEM", large)
    assert part.grid == (8, 8)
    places = resized_positions(encoder.positions.table[group.places], (4, 4), (8, 8))
    flat = encoder._group(group, "DEM", torch.full_like(large, 500.0))[1]
    torch.testing.assert_close(flat[0] - places, (flat[0] - places)[:1].expand(64, -1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no input"),
        ({"S3": (1, 1, 16, 16)}, "does not take S3; it takes rgb of S2L2A"),
        ({"S1GRD": (1, 3, 16, 16)}, r"S1GRD is \[B, 2, H, W\] \(VV, VH\)"),
        ({"rgb": (1, 3, 18, 16)}, "not a multiple of patches of 4 px"),
        ({"rgb": (1, 3, 16, 16), "DEM": (1, 1, 32, 32)}, "show the same ground"),
        ({"rgb": (1, 3, 16, 16), "DEM": (2, 1, 16, 16)}, "of the same samples"),
        ({"rgb": (1, 3, 16, 16), "S2L2A": (1, 12, 16, 16)}, "given twice"),
    ],
)
def test_what_does_not_fit_is_refused(run, inputs, message) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1])
    with pytest.raises(ValueError, match=message):
        encoder({name: torch.full(shape, 500.0) for name, shape in inputs.items()})


def test_presence_of_what_is_no_input_is_refused(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1])
    with pytest.raises(ValueError, match="present of nothing, which is no input"):
        encoder(physical(), present={"nothing": torch.tensor([True, False])})


def test_only_named_modalities_are_taken(run) -> None:
    encoder = MultiMAEEncoder.from_pretrained(run[1], ["rgb"])
    with pytest.raises(ValueError, match="not among the modalities that were named"):
        encoder({"DEM": torch.zeros(1, 1, 16, 16)})
    with pytest.raises(RunError, match=r"no model in .* train it first"):
        MultiMAEEncoder.from_pretrained(run[1] / "nowhere")


class PlainViT(nn.Module):
    """timm's VisionTransformer written out again, over a state with its names; `num_prefix` tokens."""

    def __init__(self, state: dict[str, Tensor], heads: int):
        super().__init__()
        self.state, self.heads = state, heads

    def forward(self, x: Tensor) -> Tensor:
        s = self.state
        weight = s["patch_embed.proj.weight"]
        x = F.conv2d(x, weight, s["patch_embed.proj.bias"], stride=weight.shape[-1])
        tokens = [x.flatten(2).transpose(1, 2)]
        prefix = [s[k].expand(len(x), -1, -1) for k in ("cls_token", "reg_token") if k in s]
        x = torch.cat(prefix + tokens, 1) + s["pos_embed"]
        for i in range(sum(k.endswith("norm1.weight") for k in s)):
            x = x + self.attention(self.norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
            hidden = F.gelu(self.linear(self.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
            x = x + self.linear(hidden, f"blocks.{i}.mlp.fc2")
        return self.norm(x, "norm")

    def attention(self, x: Tensor, key: str) -> Tensor:
        b, n, d = x.shape
        qkv = self.linear(x, f"{key}.qkv").reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        return self.linear((weights @ v).transpose(1, 2).reshape(b, n, d), f"{key}.proj")

    def linear(self, x: Tensor, key: str) -> Tensor:
        return F.linear(x, self.state[f"{key}.weight"], self.state[f"{key}.bias"])

    def norm(self, x: Tensor, key: str) -> Tensor:
        shape = x.shape[-1:]
        return F.layer_norm(x, shape, self.state[f"{key}.weight"], self.state[f"{key}.bias"], 1e-6)


@torch.no_grad()
def test_as_a_vit_it_has_the_same_features(run, capsys, tmp_path) -> None:
    net, folder = run
    out = tmp_path / "vit.safetensors"
    assert main(["export-vit", "--run", str(folder), "--group", "rgb", "--out", str(out)]) == 0
    assert (
        "in_chans=3, num_classes=0, embed_dim=16, depth=2, num_heads=2" in capsys.readouterr().out
    )
    x = physical()["S2L2A"][:, [3, 2, 1]]
    ours = MultiMAEEncoder.from_pretrained(folder)({"rgb": x}, [-1])[0]["rgb"]
    theirs = PlainViT(load_file(out), 2)((x - 500) / 200)
    torch.testing.assert_close(ours, theirs[:, 2:], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has no embedding of classes"):
        to_vit(net, "cover")
    assert main(["export-vit", "--run", str(folder), "--group", "x", "--out", str(out)]) == 2


@torch.no_grad()
def test_a_vit_becomes_the_encoder_and_fits_the_groups_of_its_bands(run, tmp_path) -> None:
    net, _ = run
    other = model(num_global_tokens=2).float()
    for parameter in other.parameters():
        parameter.add_(1.0)
    before = other.state_dict()["patches.swir.proj.weight"].clone()
    taken = from_vit(other, to_vit(net, "rgb") | {"head.weight": torch.zeros(3, 16)})
    assert taken.patches == ("rgb",)
    assert taken.left == ("pos_embed", "head.weight")
    ours, theirs = net.state_dict(), other.state_dict()
    kept = ("encoder.", "encoder_norm.", "global_tokens", "patches.rgb.")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k.startswith(kept))
    assert torch.equal(before, theirs["patches.swir.proj.weight"])
    save_file(to_vit(net, "rgb"), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match=r"set multimae\.width, depth, heads"):
        start_from(model(width=32).float(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match=r"blocks beyond multimae\.depth"):
        start_from(model(depth=1).float(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="no such file"):
        start_from(net, tmp_path / "nothing")
