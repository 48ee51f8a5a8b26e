"""Span masking of sequences, from the draw to the batch and back to a written text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import load_config
from configs.schema import MaskedConfig, Stage2Config
from pipeline.data.tokens import BOS, EOS
from pipeline.data.views import Views
from pipeline.generate.picking import Sampling
from pipeline.generate.sampler import generate_tokens
from pipeline.inspection.assumed import AssumedData
from pipeline.stage2.layout import Layout, build_layout
from pipeline.stage2.masking import Selection
from pipeline.stage2.masking.span import Spans, drop_spans
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.streams import Stream
from tests.pipeline.masking_layouts import count, layout_of, make, stream


def t5(dropped: list[bool]) -> tuple[list[int], list[int]]:
    """Input and target of T5, token by token; -1 - j is sentinel j."""
    source, target, spans = [], [], 0
    for place, lost in enumerate(dropped):
        if lost and (place == 0 or not dropped[place - 1]):
            spans += 1
            source.append(-spans)
            target.append(-spans)
        (target if lost else source).append(place)
    if not dropped[-1]:
        target.append(-spans - 1)
    return source, target


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 99), st.data())
def test_inputs_and_targets_are_those_of_t5(dropped, seed, data):
    spans, (source, target) = Spans(dropped), t5(dropped)
    assert spans.inputs == source
    if not any(dropped):
        assert spans.num_targets == 0
        return
    assert spans.num_targets == len(target) - 1 <= len(dropped)
    num = data.draw(st.integers(1, spans.num_targets))
    places, start = spans.targets(np.random.default_rng(seed), num)
    at = target.index(-1 - start)
    assert places == target[at + 1 : at + 1 + num]
    assert len(places) == num


def test_a_target_that_is_cut_starts_at_any_sentinel_that_has_enough_behind_it():
    spans, rng = (
        Spans([True, False, True, True, False, False, True, False]),
        np.random.default_rng(0),
    )
    # Target: 0 a 1 c d 2 g 3, of which 7 are predicted.
    assert spans.num_targets == 7
    starts = {num: {spans.targets(rng, num)[1] for _ in range(200)} for num in range(1, 8)}
    assert starts == {1: {0, 1, 2}, 2: {0, 1, 2}, 3: {0, 1}, 4: {0, 1}, 5: {0, 1}, 6: {0}, 7: {0}}


@given(st.integers(1, 30), st.integers(1, 40), st.booleans(), st.integers(0, 10**6))
def test_inputs_fit_their_budget(length, budget, some, seed):
    dropped = drop_spans(np.random.default_rng(seed), length, budget, some)
    assert 1 <= len(t5(dropped)[0]) <= budget
    assert any(dropped) or (not some and length <= budget)


def test_the_share_that_stays_is_uniform():
    rng = np.random.default_rng(0)
    kept = [1 - np.mean(drop_spans(rng, 50, 50)) for _ in range(3000)]
    assert np.quantile(kept, [0.1, 0.3, 0.5, 0.7, 0.9]) == pytest.approx(
        [0.1, 0.3, 0.5, 0.7, 0.9], abs=0.03
    )


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_a_text_that_is_too_long_loses_no_more_than_it_must(length, budget, seed):
    keep, *chance = np.random.default_rng(seed).random(length + 1)
    order = np.argsort(chance)
    # Tokens go in the order of chance, the share that stays first, until the rest fits.
    for kept in range(int((np.array(chance) < keep).sum()), -1, -1):
        dropped = [place not in order[:kept] for place in range(length)]
        if len(t5(dropped)[0]) <= budget:
            break
    assert drop_spans(np.random.default_rng(seed), length, budget) == dropped


LAYOUT = layout_of(stream("m", "map", 4), stream("t", "sequence", 9, span=True, offset=16))


def test_a_text_that_is_only_written_has_one_sentinel_among_the_inputs():
    masking, rng = make(LAYOUT, {"kind": "single", "of": "any"}, num_in=6), np.random.default_rng(0)
    written = 0
    for _ in range(150):
        chosen = masking(rng, np.array([16, 9]))
        assert count(chosen.inputs) <= 6
        if 0 in chosen.inputs and 1 in chosen.targets:
            written += 1
            assert chosen.inputs[1].tolist() == [-1]
            assert len(chosen.inputs[0]) == 5
            assert chosen.starts == {1: 0}
            assert chosen.targets[1].tolist() == list(range(len(chosen.targets[1])))
    assert written > 20


def test_alone_a_text_asks_for_its_own_spans():
    masking, rng = make(LAYOUT, num_in=20), np.random.default_rng(0)
    for _ in range(150):
        chosen = masking(rng, np.array([0, 9]))
        assert list(chosen.inputs) == list(chosen.targets) == [1]


def test_a_batch_holds_codes_and_sentinels_in_the_order_of_their_positions():
    text = np.array([4, 5, 6, 7, 8, 9, EOS])
    spans = Spans([False, True, True, False, True, False, False])
    places, start = spans.targets(np.random.default_rng(0), 5)
    sample = Masked(
        Content({0: np.arange(16), 1: text}),
        Selection({1: np.array(spans.inputs)}, {1: np.array(places)}, {1: start}),
    )
    batch = collate([sample], LAYOUT, 6, 6)
    # Sentinels come after the ten codes of the vocabulary.
    assert batch["in_code"][0].tolist() == [4, 10, 7, 11, 9, EOS]
    assert batch["in_where"][0].tolist() == [16, 17, 18, 19, 20, 21]
    assert batch["out_code"][0].tolist() == [10, 5, 6, 11, 8, -1]
    assert batch["goal/t@tok"].tolist() == [5, 6, 11, 8, 12]
    assert batch["out_where"][0, :5].tolist() == [16, 17, 18, 19, 20]


@pytest.mark.parametrize("span", [False, True], ids=["prefix", "span"])
def test_a_text_learned_by_heart_is_written(span):
    sentinels = 4 if span else 0
    layout = Layout(
        (
            Stream("A@tok", "A", "map", 4, True, True, 80, (2, 2), vocab_size=4),
            Stream(
                "T@tok", "T", "sequence", 6, True, True, position_offset=4, vocab_offset=4,
                vocab_size=9 + sentinels, num_sentinels=sentinels,
            ),
        ),
        window_m=160,
        views=Views(),
    )  # fmt: skip
    config = MaskedConfig.model_validate(
        {"tokens": ["A", "T"], "targets": ["A", "T"], "width": 32, "heads": 2,
         "encoder_depth": 1, "decoder_depth": 1, "sequences": "span" if span else "prefix"}
    )  # fmt: skip
    maps = [np.full(4, k) for k in range(2)]
    texts = [np.array([7, 4, 4, 8, 5, EOS]), np.array([5, 6, EOS])]
    contents = [Content({0: m, 1: t}) for m, t in zip(maps, texts, strict=True)]
    masking = make(layout, {"kind": "single", "of": "any"}, num_in=8, num_out=8)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = MaskedTransformer(layout, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        drawn = [Masked(c, masking(rng, c.available(2))) for c in contents * 4]
        optimizer.zero_grad()
        model(collate(drawn, layout, 8, 8)).loss.mean().backward()
        optimizer.step()
    given_maps = [Content({0: m}) for m in maps]
    written = generate_tokens(model.eval(), given_maps, [0, 1], 1, Sampling(1, 0.0, 0))[0]
    assert [w.tolist() for w in written] == [t.tolist() for t in texts]


def test_generation_asks_as_training_does(monkeypatch):
    layout = layout_of(stream("m", "map", 4), stream("t", "sequence", 9, span=True, offset=16))
    asked = []
    monkeypatch.setattr(
        "pipeline.generate.proposals.collate",
        lambda samples, *sizes: asked.append(collate(samples, *sizes)) or asked[-1],
    )
    config = MaskedConfig(tokens=("m",), targets=("m",), width=16, heads=2)
    model = MaskedTransformer(layout, config).eval()
    content = Content({0: np.arange(16) % 10})
    (text,) = generate_tokens(model, [content], [0], 1, Sampling(1, 1.0, 0))[0]
    assert (text < 10).all()
    full = Content({**content.streams, 1: text})
    whole = Spans([True] * len(text))
    places, start = whole.targets(np.random.default_rng(0), len(text))
    chosen = Selection(
        {0: np.arange(16), 1: np.array(whole.inputs)}, {1: np.array(places)}, {1: start}
    )
    expected = collate([Masked(full, chosen)], layout, 17, len(text))
    for name in ("in_code", "in_where", "in_stream", "out_where", "out_stream", "out_code"):
        assert torch.equal(asked[-1][name], expected[name])


def test_sentinels_follow_the_vocabulary_of_texts_that_are_both_read_and_written():
    overrides = ["masked.sequences=span", "masked.tokens=[DEM,captions,date]", "masked.pixels=[]"]
    config = load_config("configs/stage2/small.yaml", overrides)
    assert isinstance(config, Stage2Config)
    names = (*config.masked.tokens, *config.masked.targets)
    layout = build_layout(config.masked, AssumedData(config.data, names, {}))
    by_name = {s.modality: s for s in layout.streams}
    text = by_name["captions"]
    assert text.num_sentinels == text.num_positions // 2 + 1
    assert text.first_sentinel == by_name["OSM"].vocab_size
    assert [s.modality for s in layout.streams if s.num_sentinels] == ["captions"]
    ends = [s.vocab_offset + s.vocab_size for s in layout.streams]
    assert [s.vocab_offset for s in layout.streams[1:]] == ends[:-1]
    assert Layout.from_dict(layout.to_dict()) == layout


def test_texts_without_sentinels_start_from_bos():
    layout = layout_of(stream("t", "sequence", 4))
    sample = Masked(Content({0: np.array([5, 6, EOS])}), Selection({}, {0: np.arange(3)}))
    assert collate([sample], layout, 1, 3)["out_code"].tolist() == [[BOS, 5, 6]]
