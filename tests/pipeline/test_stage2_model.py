"""The masked transformer: what it may look at, how its loss is weighed, missing modalities."""

import numpy as np
import pytest
import torch

from configs.schema import MaskedConfig
from pipeline.data.views import Views
from pipeline.stage2.layout import Layout
from pipeline.stage2.loss import num_inputs, summarise_inputs
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.streams import Stream
from pipeline.stage2.weighing import weighing
from tests.pipeline.gradients import check_mixed_batch, order_of_use

LAYOUT = Layout(
    (
        Stream(
            "S@px", "S", "pixels", 4, True, False, patch_m=80, grid=(2, 2), patch_px=2, num_bands=3
        ),
        Stream("A@tok", "A", "map", 4, True, True, 80, (2, 2), vocab_size=7, position_offset=4),
        Stream(
            "T@tok", "T", "sequence", 6, True, True, vocab_size=9, position_offset=8, vocab_offset=7
        ),
    ),
    window_m=160,
    views=Views(),
)
CONFIG = MaskedConfig(
    pixels=("S2L2A",), targets=("LULC",), width=16, heads=2, encoder_depth=2, decoder_depth=2
)


STYLES = {
    "plain": {},
    "distance": {"relative_positions": "distance"},
    "rotary": {"relative_positions": "rotary", "qk_norm": True},
    "4m": {"mlp": "swiglu", "bias": False, "num_registers": 3},
    "terramind": {"embeddings": "4m", "norm_bias": False, "norm_eps": 1e-6},
    "rms": {"norm": "rms", "num_registers": 1, "relative_positions": "distance"},
}


@pytest.fixture(params=STYLES.values(), ids=list(STYLES))
def model(request):
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=request.param)
    return MaskedTransformer(LAYOUT, config).double()


def masked(rng, inputs, targets):
    content = {0: rng.normal(size=(4, 12)), 1: rng.integers(0, 7, 4), 2: rng.integers(4, 9, 6)}
    places = {i: np.asarray(p) for i, p in inputs.items()}
    return Masked(
        Content(content), Selection(places, {i: np.asarray(p) for i, p in targets.items()})
    )


def make(samples, n=8, k=8):
    return collate(samples, LAYOUT, n, k)


def mixed(rng):
    return [
        masked(rng, {0: [0, 2, 3], 1: [1]}, {1: [0, 3], 2: [0, 1, 2]}),
        masked(rng, {1: [0, 1, 2]}, {1: [3]}),
        masked(rng, {0: [1], 2: [0, 1]}, {1: [2, 1, 0]}),
    ]


def test_the_loss_is_the_mean_over_streams_of_their_mean_cross_entropy(model):
    sample = masked(np.random.default_rng(0), {0: [0, 1]}, {1: [0, 1, 2], 2: [0]})
    batch = make([sample])
    features = model.decode(batch, model.encode(batch))[0]
    expected = []
    for i, rows in ((1, slice(0, 3)), (2, slice(3, 4))):
        log_p = torch.log_softmax(model.logits(features[rows], i), -1)
        goals = torch.from_numpy(sample.content.streams[i][sample.selection.targets[i]])
        expected.append(-log_p[torch.arange(len(goals)), goals].mean())
    torch.testing.assert_close(model(batch).loss[0].float(), torch.stack(expected).mean().float())


def test_a_batch_of_mixed_missing_modalities_has_the_gradients_of_its_samples(model):
    samples = mixed(np.random.default_rng(1))
    check_mixed_batch(model, make(samples), [make([s]) for s in samples], atol=1e-5)


def test_every_parameter_is_used_in_the_same_order_whatever_is_present(model):
    rng = np.random.default_rng(2)
    everything = order_of_use(model, make([masked(rng, {0: [0], 1: [1], 2: [0]}, {1: [0]})]))
    assert set(everything) == {n for n, _ in model.named_parameters()}
    for inputs, targets in (({1: [0]}, {1: [1]}), ({0: [0]}, {2: [0, 1]}), ({2: [0]}, {1: [0]})):
        assert order_of_use(model, make([masked(rng, inputs, targets)])) == everything


def test_a_sequence_target_sees_only_what_was_written_before(model):
    rng = np.random.default_rng(3)
    sample = masked(rng, {0: [0]}, {2: [0, 1, 2, 3]})
    batch = make([sample])
    context = model.encode(batch)
    before = model.decode(batch, context)[0]
    sample.content.streams[2][2] = (sample.content.streams[2][2] - 4 + 1) % 5 + 4
    after = model.decode(make([sample]), context)[0]
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])


def test_a_target_is_predicted_from_visible_tokens_only(model):
    rng = np.random.default_rng(4)
    sample = masked(rng, {0: [0, 1]}, {1: [0, 1]})
    before = model(make([sample]))
    features = model.decode(make([sample]), model.encode(make([sample])))
    sample.content.streams[0][2:] += 100.0  # patches that were not chosen
    sample.content.streams[1][:] = (sample.content.streams[1] + 1) % 7  # the targets themselves
    again = model.decode(make([sample]), model.encode(make([sample])))
    torch.testing.assert_close(features, again)
    assert not torch.allclose(before.loss, model(make([sample])).loss)


def test_padding_changes_nothing(model):
    sample = masked(np.random.default_rng(5), {0: [0], 1: [1, 2]}, {1: [0], 2: [0, 1]})
    tight, loose = make([sample], n=3, k=3), make([sample], n=20, k=17)
    torch.testing.assert_close(model(tight).loss, model(loose).loss)


def test_all_target_tokens_count_alike_or_as_their_modality_is_weighed(model):
    sample = masked(np.random.default_rng(6), {0: [0, 1]}, {1: [0, 1, 2], 2: [0]})
    selection = sample.selection
    alike = CONFIG.model_copy(update={"loss": "token"})
    assert weighing(alike, LAYOUT)(selection) == {1: 1 / 4, 2: 1 / 4}
    uneven = CONFIG.model_copy(update={"loss_weights": {"T": 3.0}})
    assert weighing(uneven, LAYOUT)(selection) == pytest.approx({1: 1 / 6, 2: 3 / 2})
    weighed = collate([sample], LAYOUT, 8, 8, weighing(uneven, LAYOUT))
    ce = {n: float(v) for n, v in model(weighed).sums.items()}
    expected = ce["ce/A@tok"] / 6 + ce["ce/T@tok"] * 3 / 2
    assert float(model(weighed).loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_learned_uncertainty_weighs_streams_and_pays_for_it():
    torch.manual_seed(0)
    model = MaskedTransformer(LAYOUT, CONFIG.model_copy(update={"uncertainty": True})).double()
    assert model.log_variance is not None
    sample = masked(np.random.default_rng(7), {0: [0, 1]}, {1: [0, 1, 2], 2: [0]})
    plain = model(make([sample]))
    with torch.no_grad():
        model.log_variance[1], model.log_variance[2] = 0.4, -0.2
    found = model(make([sample]))
    ce = {n: float(v) for n, v in plain.sums.items()}
    terms = [(ce["ce/A@tok"] / 3, 0.4), (ce["ce/T@tok"], -0.2)]
    expected = np.mean([c * np.exp(-s) + s / 2 for c, s in terms])
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    found.loss.sum().backward()
    assert model.log_variance.grad is not None
    slopes = [(-c * np.exp(-s) + 0.5) / 2 for c, s in terms]
    assert model.log_variance.grad.tolist() == pytest.approx([0.0, *slopes], rel=1e-5)


def test_only_a_batch_with_padding_brings_a_mask():
    rng = np.random.default_rng(8)
    full = masked(rng, {0: [0, 1], 1: [0]}, {1: [1, 2, 3]})
    assert "in_real" not in make([full], n=3)
    assert make([full], n=4)["in_real"].tolist() == [[True, True, True, False]]


def test_held_out_sums_tell_how_well_samples_with_few_inputs_do(model):
    samples = mixed(np.random.default_rng(9))
    alone = [
        {k: float(v) for k, v in model(make([s]), evaluate=True).sums.items()} for s in samples
    ]
    told = summarise_inputs(model(make(samples), evaluate=True).sums)
    assert [num_inputs(make([s]), LAYOUT).item() for s in samples] == [2, 1, 2]
    assert told["inputs/1/ce"] == pytest.approx(alone[1]["ce/A@tok"], rel=1e-5)
    ce = [
        (alone[0]["ce/A@tok"] / 2 + alone[0]["ce/T@tok"] / 3) / 2,
        alone[2]["ce/A@tok"] / 3,
    ]
    assert told["inputs/2/ce"] == pytest.approx(np.mean(ce), rel=1e-5)
    right = [
        (alone[0]["right/A@tok"] / 2 + alone[0]["right/T@tok"] / 3) / 2,
        alone[2]["right/A@tok"] / 3,
    ]
    assert told["inputs/2/accuracy"] == pytest.approx(np.mean(right), rel=1e-5)
    assert not any(k.startswith("inputs/3") for k in told)


def test_a_sample_that_shows_nothing_is_learned_from_and_told_apart():
    torch.manual_seed(0)
    net = MaskedTransformer(LAYOUT, CONFIG.model_copy(update={"num_registers": 2})).double()
    rng = np.random.default_rng(10)
    nothing = masked(rng, {}, {1: [0, 1], 2: [0]})
    shown = masked(rng, {0: [0, 1]}, {1: [0]})
    batches = [make([s], n=2) for s in (nothing, shown)]
    check_mixed_batch(net, make([nothing, shown], n=2), batches, atol=1e-6)
    told = summarise_inputs(net(make([nothing, shown], n=2), evaluate=True).sums)
    assert {key for key in told if key.endswith("/ce")} == {"inputs/0/ce", "inputs/1/ce"}
    # Whatever the sample has beside its targets changes nothing: it was not shown.
    other = Masked(Content({**nothing.content.streams, 0: np.ones((4, 12))}), nothing.selection)
    assert torch.equal(net(make([nothing])).loss, net(make([other])).loss)
