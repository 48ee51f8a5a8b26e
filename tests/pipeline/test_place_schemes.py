"""Places as tokens: every scheme gives back the middle of the cell that a place lies in."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.stage1.place_time import (
    COORDINATE_SCHEMES,
    COORDINATE_SIZES,
    coordinate_tokens,
    coordinates_of,
    scheme_of,
)

LON, LAT = st.floats(-180, 180), st.floats(-90, 90)
places = given(lon=LON, lat=LAT)


@pytest.mark.parametrize("name", COORDINATE_SCHEMES)
@example(lon=-180.0, lat=-90.0)
@example(lon=180.0, lat=90.0)
@example(lon=-180.0, lat=90.0)
@example(lon=np.nextafter(180.0, 0), lat=np.nextafter(90.0, 0))
@example(lon=-0.0, lat=5e-324)
@places
def test_a_place_comes_back_within_half_a_cell(name, lon, lat):
    scheme = COORDINATE_SCHEMES[name]
    tokens = scheme.encode(np.array([lon, lat]))
    low = np.concatenate([[0], np.cumsum(scheme.sizes)])
    assert len(tokens) == len(scheme.sizes)
    assert all(low[i] <= t < low[i + 1] for i, t in enumerate(tokens))
    assert low[-1] == scheme.vocab_size
    back = scheme.decode(tokens)
    assert np.abs(back - [lon, lat]).max() <= scheme.cell_deg / 2 + 1e-9
    assert np.abs(back).max() <= 180
    assert abs(back[1]) <= 90
    assert scheme.encode(back).tolist() == tokens.tolist()


@places
def test_the_fine_grid_divides_the_cells(lon, lat):
    here = np.array([lon, lat])
    fine, cells = COORDINATE_SCHEMES["fine"], COORDINATE_SCHEMES["cells"]
    assert fine.encode(here)[:4].tolist() == cells.encode(here).tolist()
    apart = np.abs(fine.decode(fine.encode(here)) - cells.decode(cells.encode(here)))
    assert apart.max() < cells.cell_deg / 2


@given(lon=LON, lat=LAT)
def test_terramind_s_words_name_the_same_place(lon, lat):
    """Their text, by their formula: `(coords * 4).round() / 4` in `"lat=%.2f lon=%.2f"`."""
    scheme = COORDINATE_SCHEMES["terramind"]
    text = "lat={:.2f} lon={:.2f}".format(*(round(v * 4) / 4 + 0.0 for v in (lat, lon)))
    back = scheme.decode(scheme.encode(np.array([lon, lat])))
    assert f"lat={back[1]:.2f} lon={back[0]:.2f}" == text


def test_terramind_s_vocabulary_has_a_word_for_every_multiple_of_a_quarter_degree():
    scheme = COORDINATE_SCHEMES["terramind"]
    lats, lons = np.arange(-90, 90.1, 0.25), np.arange(-180, 180.1, 0.25)
    rows = [int(scheme.encode(np.array([0.0, lat]))[0]) for lat in lats]
    columns = [int(scheme.encode(np.array([lon, 0.0]))[1]) for lon in lons]
    assert rows + columns == list(range(721 + 1441))
    assert scheme.sizes == (721, 1441)
    assert scheme.encode(np.array([0.125, 0.375])).tolist() == [362, 721 + 720]


@given(st.lists(st.integers(-10, 2000), min_size=6, max_size=6))
def test_tokens_out_of_their_range_still_name_a_place_on_earth(drawn):
    for scheme in COORDINATE_SCHEMES.values():
        lon, lat = scheme.decode(np.array(drawn[: len(scheme.sizes)]))
        assert abs(lon) <= 180
        assert abs(lat) <= 90


def slow_cells(lon: float, lat: float) -> list[int]:
    row = min(int((lat + 90) * 4), 719)
    column = min(int((lon + 180) * 4), 1439)
    return [row // 40, 18 + column // 40, 54 + row % 40, 94 + column % 40]


@given(lon=LON, lat=LAT)
def test_the_tokens_of_existing_shards_stay_what_they_are(lon, lat):
    scheme = COORDINATE_SCHEMES["cells"]
    assert (scheme.encode, scheme.decode) == (coordinate_tokens, coordinates_of)
    assert (scheme.version, scheme.sizes) == ("place-time-v1", COORDINATE_SIZES)
    assert len(scheme.sizes) == 4
    assert coordinate_tokens(np.array([lon, lat])).tolist() == slow_cells(lon, lat)


def test_schemes_are_told_apart_by_their_version():
    assert all(scheme_of(s.version) is s for s in COORDINATE_SCHEMES.values())
    with pytest.raises(KeyError):
        scheme_of("another")


@pytest.mark.parametrize("name", COORDINATE_SCHEMES)
@pytest.mark.parametrize(
    "place", [(0.0, 90.1), (360.1, 0.0), (-180.1, 0.0), (np.nan, 0.0), (0.0, np.nan)]
)
def test_what_is_no_place_is_refused(name, place):
    with pytest.raises(ValueError, match="not a place"):
        COORDINATE_SCHEMES[name].encode(np.array(place))


@pytest.mark.parametrize("name", COORDINATE_SCHEMES)
@pytest.mark.parametrize(("east", "same"), [(203.0, -157.0), (180.25, -179.75), (360.0, 0.0)])
def test_a_longitude_counted_to_360_is_the_same_place(name, east, same):
    encode = COORDINATE_SCHEMES[name].encode
    assert encode(np.array([east, 45.0])).tolist() == encode(np.array([same, 45.0])).tolist()
