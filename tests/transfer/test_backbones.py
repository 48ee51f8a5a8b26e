"""Backbones: any subset of modalities, other sizes, what is absent has no say, layers and their levels."""

import json

import numpy as np
import pytest
import torch

from configs import to_yaml
from configs.registry import BandStatistics, modality
from configs.schema import FusionConfig, MaskedConfig, MultiMAEConfig, Stage2Config, TokenizerConfig
from pipeline.data.transforms import Normaliser
from pipeline.data.views import Views
from pipeline.engine.errors import RunError
from pipeline.fusion import artifact as of_fusion
from pipeline.fusion.model import LateFusion
from pipeline.multimae import artifact as of_multimae
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.multimae.groups import build_groups
from pipeline.multimae.model import MultiMAE
from pipeline.stage1.artifact import ImageTokenizer, fingerprint
from pipeline.stage1.tokenizer import Tokenizer
from pipeline.stage2 import artifact as of_stage2
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.streams import Stream, with_offsets
from pipeline.transfer.backbone import Backbone, fitting_window
from pipeline.transfer.feed import hidden, turned
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.task import Batch
from tests.transfer.worlds import CPU, stage2

STATISTICS = {
    "S1GRD": BandStatistics((-12.0, -20.0), (5.0, 6.0)),
    "DEM": BandStatistics((400.0,), (300.0,)),
}


def save_tokens(folder, kind):
    """A run of a model of tokens, its shards' folder and the tokenizers: 16 px windows, 4 px patches."""
    streams, info = [], {}
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for name in ("S1GRD", "DEM"):
        row = modality(name)
        shape = TokenizerConfig(
            crop_px=16, patch_px=4, width=16, heads=2, encoder_depth=1, decoder_depth=1,
        )  # fmt: skip
        torch.manual_seed(len(name))
        tokenizer = ImageTokenizer(Tokenizer(row, shape, 16).eval(), row, STATISTICS[name])
        tokenizer.save(folder / "stage1" / name)
        info[name] = {
            "modality": name, "kind": "image", "artifact": f"../stage1/{name}",
            "tokenizer": fingerprint(folder / "stage1" / name),
        }  # fmt: skip
        vocab = tokenizer.vocab_size
        streams.append(
            Stream(f"{name}@tok", name, "map", 16, True, True, 40, (4, 4), vocab_size=vocab)
        )
    layout = Layout(tuple(with_offsets(streams)), 160, Views(), info)
    masked = MaskedConfig(
        tokens=("S1GRD", "DEM"),
        targets=("DEM",),
        width=16,
        heads=2,
        encoder_depth=2,
        decoder_depth=1,
    )
    torch.manual_seed(0)
    if kind == "fusion":
        width = tokenizer.model.config.latent_width
        model = LateFusion(layout, masked, FusionConfig(depth=2), {s.name: width for s in streams})
        model.set_latents({s.name: torch.randn(s.vocab_size, width) for s in streams})
        of_fusion.save(model, folder / "artifact")
    else:
        of_stage2.save(MaskedTransformer(layout, masked), {}, folder / "artifact")
    values = {"kind": "stage2", "out": folder, "data": {"shards": shards}, "masked": masked}
    config = Stage2Config.model_validate({**values, "engine": {"num_steps": 1, "global_batch": 1}})
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def by_group(given):
    """Images of `save_multimae`'s modalities as its groups take them, in their own order of bands."""
    optical = given["S2L2A"]
    return {"rgb": optical[:, [2, 1, 0]], "nir": optical[:, 3:], "radar": given["S1GRD"]}


def save_multimae(folder, **nir):
    """Two groups of the optical bands and the radar, on patches of 4 px."""
    config = MultiMAEConfig.model_validate(
        {
            "groups": {
                "rgb": {"modality": "S2L2A", "bands": ["B04", "B03", "B02"]},
                "nir": {"modality": "S2L2A", "bands": ["B08"], **nir},
                "radar": {"modality": "S1GRD"},
            },
            "window_m": 160, "patch_m": 40, "num_visible": 12, "width": 16, "depth": 2, "heads": 2,
            "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        }
    )  # fmt: skip
    rows = {n: modality(n) for n in ("S2L2A", "S1GRD")}
    statistics = {
        "S2L2A": BandStatistics((1000.0,) * 12, (300.0,) * 12), "S1GRD": STATISTICS["S1GRD"]
    }  # fmt: skip
    table = build_groups(config, rows, "here")
    torch.manual_seed(0)
    model = MultiMAE(table, config, statistics)
    normalisers = {n: Normaliser(rows[n], s) for n, s in statistics.items()}
    about = of_multimae.Described(table, config, rows, normalisers)
    of_multimae.save(model.state_dict(), about, folder / "artifact")
    return folder


def opened(kind, folder, seed=None) -> Backbone:
    if kind == "multimae":
        return open_backbone(str(save_multimae(folder)), {}, CPU, seed).eval()
    if kind == "pixels":
        return stage2(folder, seed)
    return open_backbone(str(save_tokens(folder, kind)), {}, CPU, seed).eval()


def images(backbone: Backbone, batch=3, side=16):
    torch.manual_seed(1)
    return {
        n: torch.randn(batch, len(i.bands), side, side) * torch.tensor(i.std).view(-1, 1, 1)
        + torch.tensor(i.mean).view(-1, 1, 1)
        for n, i in backbone.intakes.items()
    }  # fmt: skip


@pytest.fixture(params=["pixels", "multimae", "tokens", "fusion"])
def backbone(request, tmp_path):
    return opened(request.param, tmp_path / request.param)


def everything(given):
    return {n: torch.ones(len(x), dtype=torch.bool) for n, x in given.items()}


def test_features_are_maps_of_every_layer_asked_for(backbone):
    given = images(backbone)
    found = backbone(given, everything(given), range(backbone.depth))
    assert len(found) == backbone.depth
    assert {tuple(f.shape) for f in found} == {(3, backbone.width, 4, 4)}
    (last,) = backbone(given, everything(given), [backbone.depth - 1])
    assert torch.allclose(last, found[-1], atol=1e-5)


def test_what_is_absent_has_no_say(backbone):
    """Of the second sample the first modality is absent: as if it had never been given."""
    given = images(backbone)
    first, second = backbone.intakes
    present = everything(given)
    present[first][1] = False
    changed = {**given, first: given[first].clone()}
    changed[first][1] = torch.nan
    (a,), (b,) = (backbone(x, present, [backbone.depth - 1]) for x in (given, changed))
    assert torch.equal(a, b)
    alone = {second: given[second]}
    (c,) = backbone(alone, everything(alone), [backbone.depth - 1])
    assert torch.allclose(a[1], c[1], atol=1e-4)
    assert not torch.allclose(a[0], c[0], atol=1e-3)


def test_every_part_of_the_image_has_its_place(backbone):
    """Features of places lie where the pixels do: changing a corner changes that corner most."""
    given = images(backbone)
    name = next(iter(given))
    changed = {**given, name: given[name].clone()}
    std = torch.tensor(backbone.intakes[name].std).view(-1, 1, 1)
    changed[name][:, :, :4, 12:] += 3 * std
    (a,), (b,) = (backbone(x, everything(x), [backbone.depth - 1]) for x in (given, changed))
    moved = (a - b).norm(dim=1).mean(0)
    assert moved.argmax() == 3


def test_levels_go_from_input_to_output(backbone):
    levels = {n: backbone.level(n) for n, _ in backbone.named_parameters()}
    assert min(levels.values()) == 0
    assert max(levels.values()) == backbone.depth + 1
    assert len(set(levels.values())) >= 3


@pytest.mark.parametrize("kind", ["pixels", "multimae", "tokens", "fusion"])
def test_a_random_twin_is_reproducible_and_another_model(kind, tmp_path):
    given = images(opened(kind, tmp_path))
    a, b, c = (opened(kind, tmp_path, s)(given, everything(given), [0])[0] for s in (None, 5, 5))
    assert torch.equal(b, c)
    assert not torch.allclose(a, b, atol=1e-2)


def test_pixels_of_any_size_but_tokens_of_one_window(tmp_path):
    pixels = opened("pixels", tmp_path / "a")
    assert pixels.window_m is None
    given = images(pixels, side=32)
    assert pixels(given, everything(given), [0])[0].shape[-2:] == (8, 8)
    assert opened("tokens", tmp_path / "b").window_m == 160


def test_a_model_of_tokens_without_its_run_is_told(tmp_path):
    run = save_tokens(tmp_path, "fusion")
    (run / "config.yaml").unlink()
    with pytest.raises(RunError, match="a model of tokens needs its tokenizers"):
        open_backbone(str(run), {}, CPU)


def test_what_is_no_backbone_is_told(tmp_path):
    with pytest.raises(RunError, match="no model in"):
        open_backbone(str(tmp_path), {}, CPU)
    run = save_tokens(tmp_path, "tokens")
    with pytest.raises(RunError, match="holds no backbone"):
        open_backbone(str(run / "stage1" / "DEM"), {}, CPU)


def test_the_features_are_those_of_the_encoder(tmp_path):
    backbone = opened("pixels", tmp_path)
    given = images(backbone)
    merged = Encoder.from_pretrained(tmp_path)(given, [-1], "mean")[0]
    assert isinstance(merged, torch.Tensor)
    found = backbone(given, everything(given), [backbone.depth - 1])[0]
    assert torch.allclose(found.flatten(2).transpose(1, 2), merged, atol=1e-5)


@pytest.mark.parametrize("kind", ["pixels", "multimae", "tokens"])
def test_features_beside_each_other_have_channels_of_their_own(kind, tmp_path):
    """What is absent is zeros there and changes no place of the others; one width whatever is given."""
    backbone = opened(kind, tmp_path)
    single, given = backbone.width, images(backbone)
    first, second = backbone.intakes
    backbone.expect([second, first], "concat")
    num = 3 if kind == "multimae" else 2
    assert backbone.width == num * single
    last = [backbone.depth - 1]
    (whole,) = backbone(given, everything(given), last)
    alone = {second: given[second]}
    (part,) = backbone(alone, everything(alone), last)
    assert whole.shape == part.shape == (3, num * single, 4, 4)
    assert (part[:, :-single] == 0).all()
    present = everything(given)
    present[first][1] = False
    (mixed,) = backbone(given, present, last)
    assert torch.allclose(mixed[1], part[1], atol=1e-4)
    assert torch.allclose(mixed[0], whole[0], atol=1e-4)
    backbone.expect([first, second], "mean")
    assert backbone.width == single
    (mean,) = backbone(given, everything(given), last)
    if kind != "multimae":
        assert torch.allclose(mean, whole.unflatten(1, (num, single)).mean(1), atol=1e-5)


def test_features_beside_each_other_are_those_of_the_encoder(tmp_path):
    backbone = opened("multimae", tmp_path)
    backbone.expect(["S2L2A", "S1GRD"], "concat")
    given = images(backbone)
    encoder = MultiMAEEncoder.from_pretrained(tmp_path, list(backbone.intakes))
    (wanted,) = encoder(by_group(given), [-1], "concat")
    assert isinstance(wanted, torch.Tensor)
    (found,) = backbone(given, everything(given), [backbone.depth - 1])
    assert torch.allclose(found.flatten(2).transpose(1, 2), wanted, atol=1e-5)


def test_a_group_without_any_band_is_absent(tmp_path):
    """Not a constant image: as if the encoder had been given the other groups alone."""
    backbone = opened("multimae", tmp_path)
    assert backbone.intakes["S2L2A"].bands == ("B02", "B03", "B04", "B08")
    given = images(backbone)
    encoder, last = MultiMAEEncoder.from_pretrained(tmp_path), [backbone.depth - 1]
    only = {"S2L2A": given["S2L2A"].clone()}
    only["S2L2A"][:, 3] = 1000.0
    known = {"S2L2A": (True, True, True, False)}
    (found,) = backbone(only, everything(only), last, known)
    (wanted,) = encoder({"rgb": by_group(given)["rgb"]}, [-1], "mean")
    assert isinstance(wanted, torch.Tensor)
    assert torch.allclose(found.flatten(2).transpose(1, 2), wanted, atol=1e-5)
    (constant,) = backbone(only, everything(only), last)
    assert not torch.allclose(constant, found, atol=1e-3)
    # A group that lacks a part of its bands keeps the mean in them.
    (partly,) = backbone(only, everything(only), last, {"S2L2A": (True, False, True, False)})
    assert torch.equal(partly, found)


def test_groups_of_one_modality_may_have_patches_of_different_sizes(tmp_path):
    """Windows are whole patches of all of them, features lie on the finest grid that there is."""
    run = save_multimae(tmp_path, patch_m=80)
    backbone = open_backbone(str(run), {}, CPU).eval()
    intakes = {"S2L2A": backbone.intakes["S2L2A"]}
    assert fitting_window((120.0, 120.0), intakes) == (160.0, 160.0)
    assert fitting_window((250.0, 250.0), intakes) == (240.0, 240.0)
    last, given = [backbone.depth - 1], images(backbone)
    assert backbone(given, everything(given), last)[0].shape[-2:] == (4, 4)
    coarse = {"S2L2A": given["S2L2A"]}
    known = {"S2L2A": (False, False, False, True)}
    assert backbone(coarse, everything(coarse), last, known)[0].shape[-2:] == (2, 2)


def test_symmetries_are_those_of_the_views():
    from pipeline.data.views import symmetric

    x = np.arange(12.0).reshape(1, 3, 4)
    for number in range(8):
        assert np.array_equal(turned(torch.from_numpy(x), number).numpy(), symmetric(x, number))


def test_hidden_modalities_never_are_all():
    present = {n: torch.ones(500, dtype=torch.bool) for n in "abc"}
    present["a"][:250] = False
    batch = Batch({}, present, np.arange(500))
    found = hidden(batch, 0.7, np.random.default_rng(0)).present
    kept = torch.stack(list(found.values()), 1)
    assert kept.any(1).all()
    assert not found["a"][:250].any()
    # More than the 30 % that chance leaves: whoever would lose all is spared one.
    assert 0.3 < kept[250:].float().mean() < 0.5


def test_timm_is_an_extra_that_an_error_names(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RunError, match=r"pip install '\.\[transfer\]'"):
        open_backbone("timm:vit_tiny_patch16_224", {}, CPU, 0)


def test_the_record_of_an_artifact_says_its_kind(tmp_path):
    run = save_tokens(tmp_path, "fusion")
    assert "fusion" in json.loads((run / "artifact" / "config.json").read_text())
    assert opened("fusion", tmp_path).kind == "fusion"
