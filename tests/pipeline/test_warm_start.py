"""Going on from a trained or imported model: what is taken, what is new, where the loss starts."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.registry import BandStatistics, modality
from configs.schema import EngineConfig
from pipeline.data.transforms import Normaliser
from pipeline.engine.build import build_engine
from pipeline.layers.positions import resized_positions
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.streams import Stream, with_offsets
from pipeline.stage2.warm_start import plan_start, warm_start
from tests.engine.team import alone
from tests.pipeline.test_encoder import LAYOUT, NORMALISERS
from tests.pipeline.test_stage2_model import CONFIG, STYLES

ROWS = {name: modality(name) for name in ("S1GRD", "DEM", "Landsat")}
NEW = [
    Stream("Landsat@px", "Landsat", "pixels", 4, True, False, 40, (2, 2), 1, 7),
    Stream("NDVI@tok", "NDVI", "map", 16, True, True, 20, (4, 4), vocab_size=6),
    Stream("date@tok", "date", "set", 3, True, True, vocab_size=12),
]


def layout_of(streams: list[Stream], **tokenizers: str) -> Layout:
    info = {name: {"tokenizer": made} for name, made in tokenizers.items()}
    return Layout(tuple(with_offsets(streams)), 80, LAYOUT.views, info)


def trained(folder, style: str, layout: Layout = LAYOUT, **changes) -> MaskedTransformer:
    torch.manual_seed(1)
    config = CONFIG.model_copy(update=STYLES[style] | changes)
    model = MaskedTransformer(layout, config)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    if style == "terramind":
        model.positions.table.add_(torch.randn_like(model.positions.table))
    artifact.save(model, NORMALISERS, folder / "artifact")
    return model.eval()


def continued(folder, layout: Layout, style: str, **changes):
    torch.manual_seed(2)
    config = CONFIG.model_copy(update=STYLES[style] | changes)
    model = MaskedTransformer(layout, config)
    start = plan_start(folder, layout, config, ROWS)
    warm_start(model, start)
    return model, start


def sample(layout: Layout, names: dict[str, int], target: str, seed: int = 0) -> Masked:
    """Some tokens of some streams in, three of another out."""
    rng, streams, places = np.random.default_rng(seed), {}, {}
    for name in (*names, target):
        i = layout.index(name)
        s = layout.streams[i]
        shape = (s.num_positions, s.patch_values) if s.kind == "pixels" else s.num_positions
        drawn = (
            rng.normal(size=shape) if s.kind == "pixels" else rng.integers(0, s.vocab_size, shape)
        )
        streams[i] = drawn.astype(np.float32) if s.kind == "pixels" else drawn
        places[i] = np.arange(names.get(name, 3))
    goal = {layout.index(target): places.pop(layout.index(target))}
    ordered = dict(sorted(places.items()))
    return Masked(Content(streams), Selection(ordered, goal))


def batch_of(layout: Layout, target: str = "LULC@tok") -> dict[str, torch.Tensor]:
    given = {"S1GRD@px": 5, "DEM@px": 2, "DEM@tok": 3, "captions@tok": 2}
    return collate([sample(layout, given, target, seed) for seed in range(3)], layout, 12, 3)


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_the_loss_starts_where_the_artifact_ends(tmp_path, style):
    old = trained(tmp_path, style)
    # Other streams stand before and between the old ones, so that all ranges move.
    streams = [NEW[0], *LAYOUT.streams[:3], NEW[1], *LAYOUT.streams[3:], NEW[2]]
    layout = layout_of(streams)
    model, start = continued(tmp_path, layout, style)
    assert start.taken == tuple(s.name for s in LAYOUT.streams)
    assert start.fresh == dict.fromkeys(
        ["Landsat@px", "NDVI@tok", "date@tok"], "not in the artifact"
    )
    for target in ("LULC@tok", "captions@tok"):
        expected = old(batch_of(LAYOUT, target)).loss
        torch.testing.assert_close(model(batch_of(layout, target)).loss, expected)
    assert "new: Landsat@px (not in the artifact)" in str(start)


@pytest.mark.parametrize("style", ["plain", "terramind"])
def test_a_step_with_an_added_modality_moves_old_and_new_weights(tmp_path, style):
    trained(tmp_path, style)
    layout = layout_of([NEW[0], *LAYOUT.streams])
    model, _ = continued(tmp_path, layout, style)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = EngineConfig.model_validate({"kind": "plain", "num_steps": 1, "global_batch": 2})
    engine = build_engine(model, config, alone(), 1)
    given = {"Landsat@px": 3, "S1GRD@px": 3, "DEM@px": 1, "DEM@tok": 1}
    samples = [sample(layout, given, "LULC@tok", seed) for seed in range(2)]
    out = engine.forward_backward(collate(samples, layout, 8, 3))
    assert engine.step(1.0).applied
    assert np.isfinite(out.loss.get())
    after = model.state_dict()
    still = {k for k in before if torch.equal(before[k], after[k])}
    # Fixed positions are no weights.
    assert still == ({"positions.table"} if style == "terramind" else set())


def test_an_imported_models_positions_serve_new_modalities(tmp_path):
    old = trained(tmp_path, "terramind")
    layout = layout_of([*LAYOUT.streams, *NEW])
    model, _ = continued(tmp_path, layout, "terramind")
    table = {s.name: (s.position_offset, s.num_positions) for s in layout.streams}

    def rows(name: str) -> torch.Tensor:
        start, count = table[name]
        return model.positions.table[start : start + count]

    # The finest grid of the artifact, 4 x 4, is also that of the new map.
    torch.testing.assert_close(rows("NDVI@tok"), old.positions.table[:16])
    expected = resized_positions(old.positions.table[:16], (4, 4), (2, 2))
    torch.testing.assert_close(rows("Landsat@px"), expected)
    torch.testing.assert_close(rows("date@tok"), rows("captions@tok")[:3])


def test_what_has_changed_starts_fresh_and_is_told(tmp_path):
    info = {"LULC": {"tokenizer": "a"}, "DEM": {"tokenizer": None}}
    old = trained(tmp_path, "plain", replace(LAYOUT, token_info=info))
    streams = [Stream(**asdict(s)) for s in LAYOUT.streams]
    streams[0] = replace(streams[0], patch_px=4, num_positions=4, grid=(2, 2), patch_m=40)
    streams[4] = replace(streams[4], vocab_size=10)
    model, start = continued(tmp_path, layout_of(streams[:2] + streams[3:], LULC="b"), "plain")
    assert start.fresh == {
        "S1GRD@px": "patches were 2 px",
        "LULC@tok": "made by another tokenizer",
        "captions@tok": "was a sequence of 9 codes",
    }
    assert start.left == ("DEM@tok",)
    assert set(start.normalisers) == {"DEM"}
    assert not torch.equal(model.stream_embed.weight[2], old.stream_embed.weight[3])
    assert torch.equal(model.stream_embed.weight[1], old.stream_embed.weight[1])


def test_codes_that_only_came_out_are_new_as_inputs(tmp_path):
    streams = [*LAYOUT.streams[:3], replace(LAYOUT.streams[3], is_input=False), LAYOUT.streams[4]]
    old = trained(tmp_path, "terramind", layout_of(streams))
    with torch.no_grad():
        old.code_embed.weight[5:12] = 0.0
    artifact.save(old, NORMALISERS, tmp_path / "artifact")
    model, _ = continued(tmp_path, LAYOUT, "terramind")
    assert model.target_embed is not None
    assert old.target_embed is not None
    assert torch.equal(model.target_embed.weight, old.target_embed.weight)
    assert torch.equal(model.code_embed.weight[12:], old.code_embed.weight[12:])
    assert model.code_embed.weight[5:12].all()


def test_other_bands_are_another_modality(tmp_path):
    trained(tmp_path, "plain")
    row = ROWS["S1GRD"].model_copy(update={"bands": ("VH", "VV")})
    start = plan_start(tmp_path, LAYOUT, CONFIG, {**ROWS, "S1GRD": row})
    assert start.fresh == {"S1GRD@px": "bands were VV, VH"}


def test_another_transformer_is_refused_with_what_to_write(tmp_path):
    trained(tmp_path, "terramind")
    config = CONFIG.model_copy(update={"width": 32, "norm_eps": 1e-6})
    with pytest.raises(ConfigError) as caught:
        plan_start(tmp_path, LAYOUT, config, ROWS)
    told = str(caught.value).split("write ")[1].split()
    assert set(told) == {"masked.width=16", "masked.embeddings=4m", "masked.norm_bias=false"}


def test_statistics_of_what_goes_on_are_those_of_the_artifact(tmp_path):
    trained(tmp_path, "plain")
    start = plan_start(tmp_path, LAYOUT, CONFIG, ROWS)
    assert start.normalisers["DEM"].statistics == BandStatistics((400.0,), (300.0,))
    assert isinstance(start.normalisers["S1GRD"], Normaliser)
