"""Generation: rounds, sequences, independence of the batch, scores."""

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.registry import BandStatistics, modality
from pipeline.data.tokens import EOS
from pipeline.engine.errors import RunError
from pipeline.generate.chain import generate_targets, think
from pipeline.generate.decode import Decoder, spread, summarise
from pipeline.generate.picking import Sampling
from pipeline.generate.proposals import Proposer
from pipeline.generate.sampler import expected_tokens, generate_tokens
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


@pytest.fixture
def with_registers():
    torch.manual_seed(0)
    return MaskedTransformer(LAYOUT, CONFIG.model_copy(update={"num_registers": 2})).eval()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["maskgit", "roar"])
@pytest.mark.parametrize("target", [1, 2])
def test_what_is_drawn_does_not_depend_on_the_batch(model, target, schedule, temperature):
    how = Sampling(steps=3, temperature=temperature, seed=1, schedule=schedule)
    together = generate_tokens(model, contents(3), [5, 6, 7], target, how)[0]
    for i, content in enumerate(contents(3)):
        alone = generate_tokens(model, [content], [5 + i], target, how)[0][0]
        np.testing.assert_array_equal(alone, together[i])


@pytest.mark.parametrize("schedule", ["maskgit", "roar"])
def test_maps_are_filled_whole_and_sequences_end(model, schedule):
    how = Sampling(steps=8, temperature=1.0, seed=0, schedule=schedule)
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


def test_roar_asks_for_few_places_at_a_time_and_sees_those_before(model, monkeypatch):
    asked, seen = [], []
    decode, encode = model.decode, model.encode
    monkeypatch.setattr(
        model, "decode", lambda b, c: asked.append(b["out_where"].shape[1]) or decode(b, c)
    )
    monkeypatch.setattr(model, "encode", lambda b: seen.append(b["in_where"].shape[1]) or encode(b))
    how = Sampling(steps=2, temperature=0.0, seed=0, schedule="roar", shape="linear")
    generate_tokens(model, contents(1), [0], 1, how)
    assert asked == [2, 2]
    assert seen == [4, 6]


def logits(model, content, how):
    places = [np.arange(4)]
    nothing = [np.zeros(4, dtype=np.int64)]
    with torch.no_grad():
        return Proposer(model, [content], 1, how).of_places(nothing, places, [np.arange(0)])[0]


def test_guidance_moves_logits_away_from_those_of_no_source(with_registers):
    (content,) = contents(1)
    plain = Sampling(1, 0.0, 0)
    given, blind = (
        logits(with_registers, content, plain),
        logits(with_registers, Content({}), plain),
    )
    guided = logits(with_registers, content, Sampling(1, 0.0, 0, guidance=2.5))
    torch.testing.assert_close(guided, blind + 2.5 * (given - blind))
    assert not torch.allclose(given, blind)


def test_sources_are_weighed_one_by_one(with_registers):
    (content,) = contents(1)
    both = Content({**content.streams, 2: np.array([5, 6, 4])})
    plain = Sampling(1, 0.0, 0)
    alone = [logits(with_registers, Content({i: both.streams[i]}), plain) for i in (0, 2)]
    blind = logits(with_registers, Content({}), plain)
    found = logits(with_registers, both, Sampling(1, 0.0, 0, guidance_by={0: 1.5, 2: 0.5}))
    expected = blind + 1.5 * (alone[0] - blind) + 0.5 * (alone[1] - blind)
    torch.testing.assert_close(found, expected)


def test_guidance_without_registers_is_refused(model):
    with pytest.raises(RunError, match="num_registers"):
        generate_tokens(model, contents(1), [0], 1, Sampling(1, 0.0, 0, guidance=2.0))


def test_in_a_chain_each_finished_target_is_input_of_the_next(model, monkeypatch):
    seen = []
    encode = model.encode
    monkeypatch.setattr(
        model, "encode", lambda b: seen.append(set(b["in_stream"].unique().tolist())) or encode(b)
    )
    how = Sampling(steps=1, temperature=1.0, seed=0)
    chained = generate_targets(model, contents(2), [0, 1], [1, 2], how, chained=True)
    assert seen == [{0}, {0, 1}]
    seen.clear()
    apart = generate_targets(model, contents(2), [0, 1], [1, 2], how)
    assert seen == [{0}, {0}]
    # The first target knows of no other in either way.
    np.testing.assert_array_equal(chained[1].draws[0], apart[1].draws[0])
    given = [
        Content({**c.streams, 1: codes})
        for c, codes in zip(contents(2), chained[1].draws[0], strict=True)
    ]
    alone = generate_tokens(model, given, [0, 1], 2, how)[0]
    assert all((a == b).all() for a, b in zip(alone, chained[2].draws[0], strict=True))
    assert set(think(model, contents(2), [0, 1], [1], how)[0].streams) == {0, 1}


def test_every_draw_is_a_chain_of_its_own(model):
    how = Sampling(steps=1, temperature=1.0, seed=0, num_draws=3)
    found = generate_targets(model, contents(1), [0], [1, 2], how, chained=True)
    assert [len(found[i].draws) for i in (1, 2)] == [3, 3]
    assert len({draw[0].tobytes() for draw in found[1].draws}) > 1


def test_expected_codes_in_a_chain_are_the_mean_over_its_draws(model):
    how = Sampling(steps=1, temperature=1.0, seed=0, num_draws=3)
    found = generate_targets(model, contents(1), [0], [2, 1], how, chained=True, expected=True)
    each = [
        expected_tokens(model, [Content({**contents(1)[0].streams, 2: draw[0]})], 1, how)[0]
        for draw in found[2].draws
    ]
    torch.testing.assert_close(found[1].expected, [torch.stack(each).mean(0)])
    assert any(not torch.allclose(each[0], other) for other in each[1:])


def test_nothing_can_follow_from_what_the_model_does_not_take(model):
    from dataclasses import replace

    closed = replace(LAYOUT.streams[1], is_input=False)
    model.layout = replace(LAYOUT, streams=(LAYOUT.streams[0], closed, LAYOUT.streams[2]))
    with pytest.raises(ConfigError, match=r"no tokens of A.*put A last"):
        generate_targets(model, contents(1), [0], [1, 2], Sampling(1, 0.0, 0), chained=True)


def test_expected_codes_are_the_softmax_of_the_first_proposal(model):
    how = Sampling(1, 0.0, 0)
    found = expected_tokens(model, contents(1), 1, how)[0]
    torch.testing.assert_close(found, logits(model, contents(1)[0], how).softmax(-1))


def test_spread_is_the_deviation_or_the_share_of_other_votes():
    maps = [[np.full((1, 2, 2), v, dtype=np.float32)] for v in (1.0, 2.0, 6.0)]
    found = np.asarray(spread(maps, modality("DEM"))[0])
    assert found.ravel()[0] == pytest.approx(np.std([1.0, 2.0, 6.0]))
    classes = [[np.full((1, 2, 2), v, dtype=np.uint8)] for v in (4, 9, 9)]
    assert np.asarray(spread(classes, modality("LULC"))[0]).ravel()[0] == pytest.approx(1 / 3)


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


def test_expected_class_maps_are_of_the_most_likely_codes(tmp_path):
    """Between two classes lies the latent of a third, which nobody proposed."""
    from tests.pipeline.test_scene import save_tokenizer

    torch.manual_seed(0)
    decoders = {}
    for name in ("LULC", "DEM"):
        info = save_tokenizer(name, tmp_path / name)
        decoders[name] = Decoder(info, tmp_path / name / "artifact", torch.device("cpu"))
    p = torch.zeros(9, 9)
    p[:, 0], p[:, 8] = 0.55, 0.45
    for name, decoder in decoders.items():
        likely = np.asarray(decoder([np.zeros(9, dtype=np.int64)])[0])
        found = np.asarray(decoder.expected([p])[0])
        assert np.array_equal(found, likely) == (name == "LULC")
