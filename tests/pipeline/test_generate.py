"""Generation: rounds, sequences, independence of the batch, scores."""

import numpy as np
import pytest
import torch

from configs.registry import BandStatistics, modality
from pipeline.data.tokens import EOS
from pipeline.generate.decode import summarise
from pipeline.generate.sampler import Sampling, generate_tokens
from pipeline.generate.scores import MapScore, constant_guess, table
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content
from tests.pipeline.test_stage2_model import CONFIG, LAYOUT


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MaskedTransformer(LAYOUT, CONFIG).eval()


def contents(n):
    rng = np.random.default_rng(0)
    return [Content({0: rng.normal(size=(4, 12)).astype(np.float32)}) for _ in range(n)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("target", [1, 2])
def test_what_is_drawn_does_not_depend_on_the_batch(model, target, temperature):
    how = Sampling(steps=3, temperature=temperature, seed=1)
    together = generate_tokens(model, contents(3), [5, 6, 7], target, how)[0]
    for i, content in enumerate(contents(3)):
        alone = generate_tokens(model, [content], [5 + i], target, how)[0][0]
        np.testing.assert_array_equal(alone, together[i])


def test_maps_are_filled_whole_and_sequences_end(model):
    how = Sampling(steps=8, temperature=1.0, seed=0)
    for codes in generate_tokens(model, contents(4), [0, 1, 2, 3], 1, how)[0]:
        assert codes.shape == (4,)
        assert (codes < 7).all()
    for codes in generate_tokens(model, contents(4), [0, 1, 2, 3], 2, how)[0]:
        assert 1 <= len(codes) <= 6
        assert EOS not in codes[:-1]


def test_each_round_changes_what_the_model_sees(model, monkeypatch):
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda b: seen.append(b["in_code"].clone()) or encode(b))
    generate_tokens(model, contents(1), [0], 1, Sampling(steps=3, temperature=0.0, seed=0))
    # 4 patches, then 1 and 2 of the generated tokens beside them.
    assert [s.shape[1] for s in seen] == [4, 5, 6]


def test_one_greedy_round_takes_the_most_likely_token_everywhere(model):
    from pipeline.stage2.masking import Selection
    from pipeline.stage2.samples import Masked, collate

    (content,) = contents(1)
    codes = generate_tokens(model, [content], [0], 1, Sampling(1, 0.0, 0))[0][0]
    full = Content({**content.streams, 1: np.zeros(4, dtype=np.int64)})
    batch = collate([Masked(full, Selection({0: np.arange(4)}, {1: np.arange(4)}))], LAYOUT, 4, 4)
    with torch.no_grad():
        features = model.decode(batch, model.encode(batch))[0]
        expected = model.logits(features, 1).argmax(-1)
    np.testing.assert_array_equal(codes, expected.numpy())


def test_draws_differ_from_each_other_and_repeat_with_the_seed(model):
    how = Sampling(steps=2, temperature=1.0, seed=0, num_draws=6)
    draws = generate_tokens(model, contents(2), [0, 1], 1, how)
    assert len({draw[0].tobytes() for draw in draws}) > 1
    again = generate_tokens(model, contents(2), [0, 1], 1, how)
    assert all((a[1] == b[1]).all() for a, b in zip(draws, again, strict=True))


def test_several_draws_become_their_mean_or_the_most_frequent_class():
    maps = [[np.full((1, 2, 2), v, dtype=np.float32)] for v in (1.0, 2.0, 6.0)]
    assert np.asarray(summarise(maps, modality("DEM"))[0]).ravel()[0] == 3.0
    classes = [[np.full((1, 2, 2), v, dtype=np.uint8)] for v in (4, 9, 9)]
    assert np.asarray(summarise(classes, modality("LULC"))[0]).ravel()[0] == 9


def test_scores_of_images_and_classes_against_plain_formulas():
    rng = np.random.default_rng(1)
    dem = MapScore(modality("DEM"))
    truth, guess = rng.integers(0, 500, (2, 1, 6, 6)).astype(np.int16)
    truth[0, 0, 0] = -32768
    dem.add(guess, truth)
    error = (guess - truth.astype(float)).ravel()[1:]
    assert dem.values()["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert dem.values()["mae"] == pytest.approx(np.abs(error).mean())
    lulc = MapScore(modality("LULC"))
    truth, guess = rng.integers(1, 4, (2, 1, 9, 9)).astype(np.uint8)
    lulc.add(guess, truth)
    ious = [
        ((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in (1, 2, 3)
    ]
    assert lulc.values()["miou"] == pytest.approx(np.mean(ious))
    assert lulc.values()["accuracy"] == pytest.approx((truth == guess).mean())
    assert table({"LULC": {"model": lulc}})["LULC"]["miou"]["model"] == pytest.approx(np.mean(ious))


def test_the_trivial_guess_is_the_mean_or_the_most_frequent_class_but_never_nodata():
    guess, name = constant_guess(modality("DEM"), BandStatistics((123.0,), (1.0,)), None)
    assert guess.shape == (1, 1, 1)
    assert float(guess[0, 0, 0]) == 123.0
    assert name == "training mean"
    counts = np.array([999, 5, 50, 0, 0, 0, 0, 0, 0, 7])
    guess, name = constant_guess(modality("LULC"), None, counts)
    assert int(guess[0, 0, 0]) == 2
    assert name.endswith("trees")
