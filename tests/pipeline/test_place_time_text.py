"""Tokens of places, dates and words come back as what they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import WordPieceConfig
from pipeline.data.tokens import EOS
from pipeline.stage1 import place_time
from pipeline.stage1.text import TextTokenizer, train_wordpiece

TEXTS = [
    "A forested valley in summer.",
    "landuse=farmland natural=water",
    "snow above a river valley",
]


@given(lon=st.floats(-180, 180), lat=st.floats(-90, 90))
def test_a_place_comes_back_within_half_a_cell(lon, lat):
    tokens = place_time.coordinate_tokens(np.array([lon, lat]))
    low = np.concatenate([[0], np.cumsum(place_time.COORDINATE_SIZES)])
    assert all(low[i] <= t < low[i + 1] for i, t in enumerate(tokens))
    back = place_time.coordinates_of(tokens)
    assert np.abs(back - [lon, lat]).max() <= place_time.FINE_DEG / 2 + 1e-9


@given(st.dates(min_value=__import__("datetime").date(1980, 1, 1)).filter(lambda d: d.year < 2080))
def test_a_date_comes_back(day):
    assert place_time.date_of(place_time.date_tokens(day.isoformat())) == day.isoformat()


def test_a_day_the_month_lacks_becomes_its_last():
    tokens = place_time.date_tokens("2021-01-31")
    february = tokens + np.array([0, 1, 0])
    assert place_time.date_of(february) == "2021-02-28"


def test_what_is_no_place_or_date_is_refused():
    with pytest.raises(ValueError, match="not a place"):
        place_time.coordinate_tokens(np.array([0.0, 91.0]))
    with pytest.raises(ValueError, match="outside"):
        place_time.date_tokens("1890-01-01")


def test_texts_come_back_and_long_ones_are_cut(tmp_path):
    tokenizer = train_wordpiece(iter(TEXTS * 3), WordPieceConfig(vocab_size=200, max_tokens=24))
    ids = tokenizer.encode(TEXTS[2])
    assert ids[-1] == EOS
    assert tokenizer.decode(ids) == TEXTS[2]
    assert len(tokenizer.encode("valley " * 100)) == 24
    tokenizer.save(tmp_path / "artifact")
    again = TextTokenizer.from_pretrained(tmp_path / "artifact")
    assert again.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()
