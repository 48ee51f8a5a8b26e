"""Evaluation: input sets, what is given, trivial guesses, probes."""

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import ConfigError, load_config
from configs.registry import modality
from configs.schema import EvaluateConfig, MaskedConfig, ProbeConfig
from pipeline.data.views import Views
from pipeline.evaluate.inputs import give, input_sets, share_out
from pipeline.evaluate.labels import class_name, label_of, label_row
from pipeline.evaluate.prior import prior_scores
from pipeline.evaluate.probes import linear, nearest, neighbour_shares, probe, standardise
from pipeline.evaluate.probing import given_for
from pipeline.evaluate.run import most_complete
from pipeline.evaluate.subject import Subject
from pipeline.evaluate.tokens import score_tokens
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, SampleReader, collate
from pipeline.stage2.streams import Stream
from shards import Dataset
from tests.pipeline.test_fusion import LAYOUT, build
from tests.pipeline.test_fusion import MASKED as FUSED

MASKED = MaskedConfig(
    tokens=("DEM",), targets=("DEM",), width=16, heads=2, encoder_depth=1, decoder_depth=1,
    num_registers=2,
)  # fmt: skip


def config(*overrides):
    found = load_config("configs/evaluate/small.yaml", overrides)
    assert isinstance(found, EvaluateConfig)
    return found


def contents(count, lacking=()):
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        streams = {
            0: rng.integers(0, 7, 4), 1: rng.integers(0, 5, 4), 2: rng.integers(4, 9, 6),
            3: rng.integers(0, 4, 2),
        }  # fmt: skip
        found.append((i, Content({k: v for k, v in streams.items() if (i, k) not in lacking})))
    return found


@pytest.fixture(params=["stage2", "fusion"])
def subject(request):
    torch.manual_seed(0)
    model = MaskedTransformer(LAYOUT, MASKED) if request.param == "stage2" else build().float()
    return Subject(request.param, model.eval(), {})


def test_input_sets_are_all_without_each_and_each_alone():
    sets = {s.name: s for s in input_sets(LAYOUT, config())}
    assert list(sets) == ["all", *(f"without/{m}" for m in "ABTD"), *(f"alone/{m}" for m in "ABTD")]
    assert sets["all"].streams(LAYOUT, "B") == [0, 2, 3]
    assert sets["without/A"].streams(LAYOUT) == [1, 2, 3]
    assert sets["alone/T"].streams(LAYOUT) == [2]
    assert sets["alone/T"].streams(LAYOUT, "T") == []
    few = [s.name for s in input_sets(LAYOUT, config("without=[B]", "alone=[]"))]
    assert few == ["all", "without/B"]
    both = input_sets(LAYOUT, config("alone=[]", "without=[]", "pairs=[[A,T]]"))[-1]
    assert (both.name, both.streams(LAYOUT, "T")) == ("pair/A+T", [0])


@pytest.mark.parametrize("pixels", [(), ("DEM",), ("DEM", "NDVI")])
def test_the_same_samples_are_asked_in_whichever_form_a_model_takes_them(pixels):
    have = {"DEM": [0, 1, 1, 1, 0], "NDVI": [1, 0, 1, 0, 0], "LULC": [1, 1, 0, 0, 1]}
    there = {n: np.array(v, bool) for n, v in have.items()}
    dataset = SimpleNamespace(
        path="here",
        select=lambda *wanted: np.arange(5),
        present=lambda part: there[part.removeprefix("tok_")],
        modalities=have, extras=[f"tok_{n}" for n in have],
    )  # fmt: skip
    streams = [SimpleNamespace(modality=n) for n in (*pixels, *have)]
    reader = SimpleNamespace(
        dataset=dataset, layout=SimpleNamespace(streams=streams), usable=np.ones(5, bool),
        part_names=[*pixels, *(f"tok_{n}" for n in have)],
    )  # fmt: skip
    found = most_complete(cast(SampleReader, reader), config("num_samples=4"))
    assert found.tolist() == [0, 1, 2, 3]
    found = most_complete(cast(SampleReader, reader), config("num_samples=2"))
    assert found.tolist() == [0, 1]


def test_a_text_that_is_asked_for_whole_is_one_lost_span_where_texts_lose_spans():
    from dataclasses import replace

    spans = replace(LAYOUT.streams[2], num_sentinels=3)
    layout = replace(LAYOUT, streams=(*LAYOUT.streams[:2], spans, *LAYOUT.streams[3:]))
    ((_, content),) = contents(1)
    shown = give(content, layout, [0], 3, np.random.default_rng(0), target=2).selection
    assert shown.inputs[2].tolist() == [-1]
    assert shown.starts == {2: 0}
    assert shown.targets[2].tolist() == list(range(6))
    # The sentinel is one of the inputs that a model has room for.
    assert sum(map(len, shown.inputs.values())) == 3


@pytest.mark.parametrize("key", ["without", "alone"])
def test_what_the_model_does_not_take_is_refused(key):
    with pytest.raises(ConfigError, match=f"{key} names LULC; the model takes A, B, T, D"):
        input_sets(LAYOUT, config(f"{key}=[LULC]"))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 60))
def test_tokens_are_shared_out_evenly_and_exactly(capacity, total):
    shares = share_out(capacity, total)
    assert sum(shares) == min(total, sum(capacity))
    assert all(0 <= s <= c for s, c in zip(shares, capacity, strict=True))
    open_ = [s for s, c in zip(shares, capacity, strict=True) if s < c]
    assert not open_ or max(shares) - min(open_) <= 1


def test_what_is_given_is_of_the_set_and_all_of_the_target_is_asked():
    ((_, content),) = contents(1)
    sample = give(content, LAYOUT, [1, 2], 5, np.random.default_rng(0), target=0)
    assert set(sample.selection.inputs) == {1, 2}
    assert sum(map(len, sample.selection.inputs.values())) == 5
    assert sample.selection.inputs[2].tolist() == [0, 1, 2]
    assert sample.selection.targets[0].tolist() == [0, 1, 2, 3]


def test_scores_are_means_over_all_tokens_whatever_the_batch(subject):
    held = contents(5, lacking={(1, 0), (3, 1)})
    sets = input_sets(LAYOUT, config("without=[]", "alone=[B]"))
    told = []
    found = score_tokens(subject, held, sets, 6, 2, 0, told.append)
    assert told == ["all", "alone/B"]
    assert set(found["alone/B"]) == {"A", "T", "D"}
    # Sample 1 has no A to ask for, sample 3 no B to give.
    assert found["alone/B"]["A"]["num_samples"] == 3
    assert found["all"]["B"]["num_tokens"] == 16
    again = score_tokens(subject, held, sets, 6, 5, 0, told.append)
    alone = []
    for i, content in held:
        if i not in (1, 3):
            shown = give(content, LAYOUT, [1], 6, np.random.default_rng([0, i]), 0)
            sums = subject.model(collate([shown], LAYOUT, 6, 4), evaluate=True).sums
            alone.append(float(sums["ce/A@tok"]) / 4)
    for one in (found, again):
        assert one["alone/B"]["A"]["ce"] == pytest.approx(np.mean(alone), rel=1e-5)


def test_features_follow_from_what_is_given_and_not_from_padding(subject):
    (_, first), (_, second) = contents(2)
    shown = [
        give(c, LAYOUT, [0, 3], n, np.random.default_rng(0)) for c, n in ((first, 6), (second, 3))
    ]
    together = subject.represent(collate(shown, LAYOUT, 9, 1))
    alone = torch.cat([subject.represent(collate([s], LAYOUT, 6, 1)) for s in shown])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


def test_the_untrained_twin_has_other_weights_and_the_same_frozen_ones(subject):
    before = torch.get_rng_state()
    twin, same = subject.untrained(1), subject.untrained(1)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [s.model.code_embed.weight for s in (subject, twin, same)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    if subject.kind == "fusion":
        assert torch.equal(subject.model.latents, twin.model.latents)
        assert twin.model.masked == FUSED


def test_the_trivial_guess_counts_codes_and_places_of_sets_apart():
    train = [Content({0: np.array([1, 1, 1, 3]), 3: np.array([0, 2])})] * 2
    held = [Content({0: np.array([1, 3, 0, 1]), 3: np.array([0, 0])})]
    found = prior_scores(LAYOUT, train, held)
    assert set(found) == {"A", "D"}
    shares = np.array([1, 7, 1, 3, 1, 1, 1]) / 15
    assert found["A"]["ce"] == pytest.approx(-np.log(shares[[1, 3, 0, 1]]).mean())
    assert found["A"]["accuracy"] == 0.5
    assert found["D"]["ce"] == pytest.approx(-np.log([3 / 6, 1 / 6]).mean())


def separable(rng, count, classes):
    labels = torch.from_numpy(rng.integers(0, classes, count))
    centres = torch.eye(classes, 8).double() * 6
    return centres[labels] + torch.from_numpy(rng.normal(size=(count, 8))), labels


def test_probes_tell_separable_classes_and_not_noise():
    rng = np.random.default_rng(0)
    train, test = separable(rng, 200, 4), separable(rng, 100, 4)
    assert probe(train, test, 4, 10, 1e-2) == {"knn": 1.0, "linear": 1.0}
    shuffled = (train[0], train[1][torch.from_numpy(rng.permutation(200))])
    assert max(probe(shuffled, test, 4, 10, 1e-2).values()) < 0.5


def test_the_linear_probe_is_at_the_minimum_of_its_loss():
    rng = np.random.default_rng(1)
    (x, labels), (test, _) = separable(rng, 60, 3), separable(rng, 40, 3)
    x, test = standardise(x / 6, test / 6)
    weight = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
        loss = loss + 0.05 * weight.square().sum()
        grads = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            weight -= 0.5 * grads[0]
            bias -= 0.5 * grads[1]
    expected = (test @ weight.T + bias).argmax(1)
    assert torch.equal(linear(x, labels, test, 3, 0.1), expected)


def test_near_neighbours_outvote_many_far_ones():
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]]).double()
    labels = torch.tensor([0, 1, 2, 2])
    test = torch.tensor([[1.0, 0.02], [0.0, 2.0]]).double()
    for k in (2, 4, 9):
        assert nearest(train, labels, test, 3, k).tolist() == [0, 2]


@pytest.mark.parametrize("k", [1, 3, 30])
def test_shares_of_neighbours_are_those_of_a_loop(k):
    """Of several labels per sample; with k above the number of samples all of them vote."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(12, 5)), rng.normal(size=(4, 5))
    labels = rng.integers(0, 2, (12, 3))
    wanted = np.zeros((4, 3))
    for e, x in enumerate(test):
        near = [float(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y)) for y in train]
        chosen = sorted(range(12), key=lambda i: -near[i])[:k]
        weights = [math.exp(near[i] / 0.07) for i in chosen]
        for weight, i in zip(weights, chosen, strict=True):
            wanted[e] += weight / sum(weights) * labels[i]
    known, asked = torch.from_numpy(train), torch.from_numpy(test)
    found = neighbour_shares(known, torch.from_numpy(labels), asked, k)
    assert np.allclose(found.numpy(), wanted, atol=1e-9)


def dataset(rows, part):
    """As much of a data set as labels need: one part."""
    found = SimpleNamespace(
        path="here",
        modalities=rows,
        read=lambda i, names: {names[0]: part} if part is not None else {},
    )
    return cast(Dataset, found)


def label(row, part, window=lambda x: x):
    return label_of(dataset({}, part), row, 0, window)


def test_labels_are_the_dominant_class_or_the_one_that_is_hot():
    row = modality("LULC")
    part = np.array([[[0, 0, 0], [4, 2, 2]]], dtype=np.uint8)
    assert label(row, part) == 2
    assert label(row, part, lambda x: x[:, :, :1]) == 4
    assert class_name(row, 2) == "trees"
    assert label(row, np.zeros_like(part)) is None
    assert label(row, None) is None
    biome = modality("biome")
    hot = np.zeros(biome.num_bands, dtype=np.uint8)
    hot[3] = 1
    assert label(biome, hot) == 3
    assert class_name(biome, 3) == "deserts"
    hot[0] = 1
    assert label(biome, hot) is None


def test_probes_hide_the_label_and_what_says_it_in_words():
    own = Layout(
        tuple(
            Stream(f"{n}@tok", n, "map", 4, True, True, 80.0, (2, 2), vocab_size=5)
            for n in ("S2L2A", "DEM", "LULC")
        ),
        160,
        Views(),
    )
    row = modality("LULC")
    plain, *_ = given_for(own, row, ProbeConfig(labels=("LULC",)))
    assert plain.modalities == {"S2L2A", "DEM"}
    hidden = ProbeConfig(labels=("LULC",), without=("DEM", "captions"))
    assert [s.modalities for s in given_for(own, row, hidden)] == [{"S2L2A"}]
    with pytest.raises(ConfigError, match="nothing is left of the model's inputs, S2L2A, DEM"):
        given_for(own, row, ProbeConfig(without=("DEM", "S2L2A")))
    with pytest.raises(ConfigError, match="captoins"):
        given_for(own, row, ProbeConfig(without=("captoins",)))


def test_what_has_no_classes_is_no_label():
    rows = {"DEM": modality("DEM"), "LULC": modality("LULC")}
    with pytest.raises(ConfigError, match="DEM, a modality of kind image"):
        label_row(dataset(rows, None), "DEM")
    with pytest.raises(ConfigError, match="names S1GRD; here has DEM, LULC"):
        label_row(dataset(rows, None), "S1GRD")
