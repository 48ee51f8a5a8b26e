"""Late fusion: what is pooled from where, missing modalities, how streams are combined."""

import numpy as np
import pytest
import torch

from configs import ConfigError, load_config
from configs.schema import FusionConfig, MaskedConfig
from pipeline.data.views import Views
from pipeline.fusion import artifact
from pipeline.fusion.combine import Gated
from pipeline.fusion.model import LateFusion
from pipeline.fusion.pooling import nearness, pool
from pipeline.layers.positions import METRES_PER_UNIT
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Selection
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.streams import Stream
from tests.pipeline.gradients import check_mixed_batch, order_of_use

LAYOUT = Layout(
    (
        Stream("A@tok", "A", "map", 4, True, True, 80, (2, 2), vocab_size=7),
        Stream(
            "B@tok", "B", "map", 4, True, True, 80, (2, 2), vocab_size=5, position_offset=4,
            vocab_offset=7,
        ),
        Stream(
            "T@tok", "T", "sequence", 6, True, True, vocab_size=9, position_offset=8, vocab_offset=12
        ),
        Stream("D@tok", "D", "set", 2, True, True, vocab_size=4, position_offset=14, vocab_offset=21),
    ),
    window_m=160,
    views=Views(),
)  # fmt: skip
WIDTHS = {"A@tok": 3, "B@tok": 2}
MASKED = MaskedConfig(tokens=("DEM", "LULC"), targets=("DEM",), width=16, heads=2)


@pytest.fixture(params=["concat", "mean", "gated"])
def model(request):
    torch.manual_seed(0)
    return build(combine=request.param)


def build(**changes):
    model = LateFusion(LAYOUT, MASKED, FusionConfig(**changes), WIDTHS)
    model.set_latents({"A@tok": torch.randn(7, 3), "B@tok": torch.randn(5, 2)})
    return model.double()


def masked(rng, inputs, targets):
    content = {
        0: rng.integers(0, 7, 4), 1: rng.integers(0, 5, 4), 2: rng.integers(4, 9, 6),
        3: rng.integers(0, 4, 2),
    }  # fmt: skip
    places = {i: np.asarray(p) for i, p in inputs.items()}
    wanted = {i: np.asarray(p) for i, p in targets.items()}
    return Masked(Content(content), Selection(places, wanted))


def make(samples, n=8, k=8):
    return collate(samples, LAYOUT, n, k)


def mixed(rng):
    return [
        masked(rng, {0: [0, 2, 3], 1: [1]}, {0: [1], 2: [0, 1, 2]}),
        masked(rng, {1: [0, 1, 2]}, {0: [3], 3: [0, 1]}),
        masked(rng, {2: [0, 1], 3: [0]}, {1: [2, 1, 0], 3: [1]}),
    ]


def test_tokens_are_pooled_by_distance_and_all_alike():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 5, 3)))
    targets = torch.from_numpy(rng.uniform(0, 4, (2, 3, 2)))
    inputs = torch.from_numpy(rng.uniform(0, 4, (2, 5, 2)))
    targets[0, 0], inputs[1, 2] = torch.nan, torch.nan
    mine = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]])
    reach_m = torch.tensor([30.0, 100.0]).double()
    found = pool(x, nearness(targets, inputs, reach_m), mine)
    for b in range(2):
        tokens = [n for n in range(5) if mine[b, n]]
        for k in range(3):
            means = []
            for reach in (30.0, 100.0, np.inf):
                apart = [float((targets[b, k] - inputs[b, n]).abs().sum()) for n in tokens]
                apart = [0.0 if np.isnan(a) else a * METRES_PER_UNIT for a in apart]
                weights = np.exp(-np.array(apart) / reach)
                means.append(np.average(x[b, tokens].numpy(), axis=0, weights=weights))
            np.testing.assert_allclose(found[b, k].numpy(), np.concatenate(means), rtol=1e-10)
    nothing = pool(x, nearness(targets, inputs, reach_m), torch.zeros_like(mine))
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_a_batch_of_mixed_missing_modalities_has_the_gradients_of_its_samples(model):
    samples = mixed(np.random.default_rng(1))
    check_mixed_batch(model, make(samples), [make([s]) for s in samples], atol=1e-6)


def test_every_parameter_is_used_in_the_same_order_whatever_is_present(model):
    rng = np.random.default_rng(2)
    everything = order_of_use(
        model, make([masked(rng, {0: [0], 1: [1], 2: [0], 3: [0]}, {0: [1], 1: [0], 3: [1]})])
    )
    assert set(everything) == {n for n, _ in model.named_parameters()}
    for inputs, targets in (({1: [0]}, {1: [1]}), ({2: [0]}, {0: [0]}), ({3: [0]}, {2: [0, 1]})):
        assert order_of_use(model, make([masked(rng, inputs, targets)])) == everything


def test_a_stream_that_is_missing_says_nothing(model):
    """Neither other codes in padded slots nor more room for them change a feature."""
    sample = masked(np.random.default_rng(3), {0: [0, 1], 3: [0]}, {0: [2, 3], 2: [0, 1]})
    tight, loose = make([sample], n=3, k=4), make([sample], n=9, k=7)
    loose["in_code"][0, 3:] = 8
    torch.testing.assert_close(model.features(tight), model.features(loose)[:, :4])


def test_a_target_is_predicted_from_visible_tokens_only(model):
    sample = masked(np.random.default_rng(4), {1: [0, 1]}, {0: [0, 1], 1: [2]})
    before = model.features(make([sample]))
    sample.content.streams[0][:] = (sample.content.streams[0] + 1) % 7
    sample.content.streams[1][2:] = (sample.content.streams[1][2:] + 1) % 5
    torch.testing.assert_close(before, model.features(make([sample])))
    sample.content.streams[1][0] = (sample.content.streams[1][0] + 1) % 5
    assert not torch.allclose(before, model.features(make([sample])))


def test_a_word_sees_those_before_it_only(model):
    sample = masked(np.random.default_rng(5), {0: [0]}, {2: [0, 1, 2, 3], 0: [1]})
    before = model.features(make([sample]))[0]
    sample.content.streams[2][1] = (sample.content.streams[2][1] - 4 + 1) % 5 + 4
    after = model.features(make([sample]))[0]
    torch.testing.assert_close(before[[0, 1, 4]], after[[0, 1, 4]])
    assert not torch.allclose(before[2], after[2])
    assert not torch.allclose(before[3], after[3])


def test_gates_and_means_weigh_what_is_there():
    torch.manual_seed(0)
    vectors = [torch.randn(2, 3, 16).double() for _ in range(4)]
    there = torch.tensor([[True, False, True, False], [False, False, False, True]])
    query = torch.randn(2, 3, 16).double()
    mean = build(combine="mean").combine(vectors, there, query)
    torch.testing.assert_close(mean[0], (vectors[0][0] + vectors[2][0]) / 2)
    gated = build(combine="gated").combine
    assert isinstance(gated, Gated)
    found = gated(vectors, there, query)
    torch.testing.assert_close(found[1], vectors[3][1])
    logits = [gated.own[s](vectors[s][0]) + gated.asked(query[0])[:, s, None] for s in (0, 2)]
    first = torch.sigmoid(logits[0] - logits[1])
    torch.testing.assert_close(found[0], first * vectors[0][0] + (1 - first) * vectors[2][0])


def test_the_artifact_gives_the_model_back(model, tmp_path):
    model = model.float().eval()
    artifact.save(model, tmp_path / "artifact")
    again = artifact.load(tmp_path / "artifact")
    batch = make(mixed(np.random.default_rng(6)))
    assert torch.equal(model.features(batch), again.features(batch))
    assert torch.equal(model.represent(batch), again.represent(batch))


def test_pixels_are_refused():
    with pytest.raises(ConfigError, match=r"write masked\.pixels=\[\]"):
        load_config("configs/fusion/small.yaml", ["masked.pixels=[S2L2A]"])
