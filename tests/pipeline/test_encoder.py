"""The encoder as a module of its own: the same features, any subset, other sizes, what is refused."""

import numpy as np
import pytest
import torch

from configs.registry import BandStatistics, modality
from pipeline.data.transforms import Normaliser
from pipeline.data.views import Views
from pipeline.engine.errors import RunError
from pipeline.layers.positions import grid_positions, resized_positions
from pipeline.layers.standardise import Standardise
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.streams import Stream, with_offsets
from tests.pipeline.test_stage2_model import CONFIG, STYLES

# Two images of one window, one of them twice as coarse, a class map and a text.
LAYOUT = Layout(
    tuple(
        with_offsets(
            [
                Stream("S1GRD@px", "S1GRD", "pixels", 16, True, False, 20, (4, 4), 2, 2),
                Stream("DEM@px", "DEM", "pixels", 4, True, False, 40, (2, 2), 4, 1),
                Stream("DEM@tok", "DEM", "map", 4, True, True, 40, (2, 2), vocab_size=5),
                Stream("LULC@tok", "LULC", "map", 4, True, True, 40, (2, 2), vocab_size=7),
                Stream("captions@tok", "captions", "sequence", 6, True, True, vocab_size=9),
            ]
        )
    ),
    window_m=80,
    views=Views(),
)
NORMALISERS = {
    "S1GRD": Normaliser(modality("S1GRD"), BandStatistics((-12.0, -20.0), (5.0, 6.0))),
    "DEM": Normaliser(modality("DEM"), BandStatistics((400.0,), (300.0,))),
}


def build(style: str = "plain", **changes: int) -> MaskedTransformer:
    torch.manual_seed(0)
    return MaskedTransformer(LAYOUT, CONFIG.model_copy(update=STYLES[style] | changes)).eval()


@pytest.fixture
def make(tmp_path):
    """A model of a style, and its encoder as read from its artifact."""

    def made(style: str = "plain", modalities: tuple[str, ...] = ()):
        model = build(style)
        artifact.save(model, NORMALISERS, tmp_path / "run" / "artifact")
        return model, Encoder.from_pretrained(tmp_path / "run", modalities)

    return made


def physical(batch: int = 2, side: int = 8) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    radar = rng.normal(-15, 5, (batch, 2, side, side)).astype(np.float32)
    height = rng.integers(0, 900, (batch, 1, side, side)).astype(np.int16)
    radar[0, 1, 2, 3], height[-1, 0, 5, 5] = np.nan, -32768
    return {"S1GRD": torch.from_numpy(radar), "DEM": torch.from_numpy(height)}


def patches(name: str, x: np.ndarray, p: int) -> np.ndarray:
    y, _ = NORMALISERS[name].forward(x)
    c, h, w = y.shape
    return y.reshape(c, h // p, p, w // p, p).transpose(1, 3, 2, 4, 0).reshape(-1, p * p * c)


def trained_way(model: MaskedTransformer, streams: list[dict[int, np.ndarray]]) -> torch.Tensor:
    """Features of the last layer as training computes them, padding and all: [B, R + N, D]."""
    samples = [
        Masked(Content(s), Selection({i: np.arange(len(v)) for i, v in s.items()}, {}))
        for s in streams
    ]
    count = max(sum(map(len, s.values())) for s in streams)
    batch = collate(samples, model.layout, count, 1)
    caught = []
    handle = model.encoder_norm.register_forward_hook(lambda *a: caught.append(a[2]))
    model.encode(batch)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_features_are_those_that_training_sees(make, style):
    model, encoder = make(style)
    given = physical()
    codes = torch.tensor([[[1, 0], [3, 2]], [[6, 6], [0, 1]]])
    text = torch.tensor([[4, 5, 3], [7, 3, -1]])
    found = encoder({"captions": text, "LULC": codes, **given})[-1]
    streams = [
        {
            0: patches("S1GRD", given["S1GRD"][b].numpy(), 2),
            1: patches("DEM", given["DEM"][b].numpy(), 4),
            3: codes[b].flatten().numpy(),
            4: text[b][text[b] >= 0].numpy(),
        }
        for b in range(2)
    ]
    expected = trained_way(model, streams)[:, model.config.num_registers :]
    assert list(found) == ["S1GRD", "DEM", "LULC", "captions"]
    ours = torch.cat(list(found.values()), 1)
    torch.testing.assert_close(ours[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1, :-1], expected[1, :-1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_a_sample_lacks_changes_nothing_for_it(make):
    _, encoder = make("distance")
    given = physical()
    there = {"S1GRD": torch.tensor([True, True]), "DEM": torch.tensor([True, False])}
    for how in ("mean", "max"):
        (mixed,) = encoder(given, [-1], how, there)
        (both,) = encoder({k: v[:1] for k, v in given.items()}, [-1], how)
        (alone,) = encoder({"S1GRD": given["S1GRD"][1:]}, [-1], how)
        torch.testing.assert_close(mixed, torch.cat([both, alone]), atol=1e-5, rtol=1e-5)


def test_presence_of_what_is_no_input_is_refused(make):
    """The name of a form is no name of the input: its samples would count as present."""
    _, encoder = make()
    with pytest.raises(ValueError, match="present of S1GRD@px, which is no input"):
        encoder(physical(), present={"S1GRD@px": torch.tensor([True, False])})


@torch.no_grad()
def test_merging_is_done_place_by_place(make):
    _, encoder = make()
    rng = np.random.default_rng(1)
    fine = torch.from_numpy(rng.normal(-15, 5, (1, 2, 8, 8))).float()
    codes = {"DEM@tok": torch.tensor([[0, 1, 2, 3]]), "LULC": torch.tensor([[6, 5, 4, 3]])}
    (each,) = encoder(codes, [0])
    stacked = torch.stack(list(each.values()))
    torch.testing.assert_close(encoder(codes, [0], "mean")[0], stacked.mean(0))
    torch.testing.assert_close(encoder(codes, [0], "max")[0], stacked.amax(0))
    torch.testing.assert_close(encoder(codes, [0], "concat")[0], torch.cat([*stacked], -1))
    # The coarse grid is brought to the fine one.
    assert encoder({"S1GRD": fine, **codes}, [0], "mean")[0].shape == (1, 16, 16)
    with pytest.raises(ValueError, match="only maps can be merged"):
        encoder({"captions": torch.tensor([[4, 3]])}, merge="mean")


@torch.no_grad()
def test_concat_keeps_room_for_what_is_absent(make):
    _, encoder = make(modalities=("LULC", "DEM@tok"))
    codes = torch.tensor([[0, 1, 2, 3]])
    (found,) = encoder({"DEM@tok": codes}, [-1], "concat")
    assert found.shape == (1, 4, 32)
    assert not found[..., :16].any()
    assert found[..., 16:].any()
    with pytest.raises(ValueError, match="S1GRD is not among the modalities"):
        encoder(physical())


@torch.no_grad()
def test_layers_are_chosen_by_number(make):
    _, encoder = make()
    given = physical()
    every = encoder(given)
    assert len(every) == 2
    first, last = encoder(given, layers=[0, -1])
    torch.testing.assert_close(first["DEM"], every[0]["DEM"])
    torch.testing.assert_close(last["DEM"], every[1]["DEM"])
    with pytest.raises(ValueError, match="layer 2: the encoder has 2"):
        encoder(given, layers=[2])


@pytest.mark.parametrize("style", ["plain", "terramind"])
@torch.no_grad()
def test_other_sizes_get_positions_of_their_own(make, style):
    _, encoder = make(style)
    _, stream = encoder.stream("S1GRD")
    found = encoder._positions(stream, (6, 8), 48)
    if style == "plain":
        # Metres do not change with the size of the image: the corner is where it was.
        torch.testing.assert_close(found, grid_positions(6, 8, 20, 16))
        small = encoder._positions(stream, (4, 4), 16).view(4, 4, 16)
        torch.testing.assert_close(found.view(6, 8, 16)[:4, :4], small)
    else:
        table = encoder.positions.table[:16]
        torch.testing.assert_close(found, resized_positions(table, (4, 4), (6, 8)))
    x = torch.randn(1, 2, 12, 16)
    assert encoder({"S1GRD": x}, [-1])[0]["S1GRD"].shape == (1, 48, 16)


def test_pixels_without_a_measurement_are_the_mean_as_in_training():
    rng = np.random.default_rng(2)
    radar = rng.normal(-15, 5, (2, 5, 5)).astype(np.float32)
    radar[0, 0, 0], radar[1, 2, 2], radar[1, 4, 4] = np.nan, np.inf, -np.inf
    height = rng.integers(-500, 9000, (1, 5, 5)).astype(np.int16)
    height[0, 1, 1] = -32768
    for name, x in (("S1GRD", radar), ("DEM", height)):
        normaliser = NORMALISERS[name]
        inside = Standardise(*normaliser.statistics, normaliser.modality.nodata)
        expected, valid = normaliser.forward(x)
        found = inside(torch.from_numpy(x)[None])[0]
        torch.testing.assert_close(found, torch.from_numpy(expected))
        assert not found[:, ~torch.from_numpy(valid)].any()
        assert inside.bfloat16().mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give at least one"),
        ({"S2L2A": (1, 12, 8, 8)}, "does not take S2L2A; it takes S1GRD@px, DEM@px, DEM@tok"),
        ({"S1GRD": (1, 3, 8, 8)}, r"S1GRD is \[B, 2, H, W\] \(VV, VH\), not \[1, 3, 8, 8\]"),
        ({"S1GRD": (1, 2, 8, 7)}, "S1GRD is 8 x 7 px, not a multiple of patches of 2 px"),
        ({"S1GRD": (1, 2, 8, 8), "DEM": (2, 1, 8, 8)}, "same samples; given are S1GRD: 1, DEM: 2"),
        ({"S1GRD": (1, 2, 4, 4), "DEM": (1, 1, 8, 8)}, "S1GRD 40 x 40 m, DEM 80 x 80 m"),
        ({"DEM": (1, 1, 8, 8), "DEM@px": (1, 1, 8, 8)}, "one of these is given twice"),
        ({"LULC": (1, 5)}, "is no grid"),
        ({"captions": (1, 7)}, "7 tokens, where the model has 6 places"),
    ],
)
def test_what_does_not_fit_is_refused(make, given, message):
    _, encoder = make()
    with pytest.raises(ValueError, match=message):
        encoder({name: torch.zeros(shape) for name, shape in given.items()})


def test_codes_of_another_tokenizer_are_refused(make):
    _, encoder = make()
    size = next(s for s in encoder.layout.streams if s.name == "LULC@tok").vocab_size
    assert encoder({"LULC": torch.full((1, 4, 4), size - 1)})
    with pytest.raises(ValueError, match=f"code {size}, where its tokenizer has {size}"):
        encoder({"LULC": torch.full((1, 4, 4), size)})


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(RunError, match="no model in"):
        Encoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"version": 1, "tokenizer": {}}')
    with pytest.raises(RunError, match="has no stage-2 model"):
        Encoder.from_pretrained(tmp_path)
