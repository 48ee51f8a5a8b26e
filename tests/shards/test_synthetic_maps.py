"""Land cover of two dates and OSM features of the synthetic Earth."""

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.registry import modality
from shards.sample import Sample, part_problem
from shards.sources.synthetic import MODALITIES, ON_REQUEST
from shards.stats import Statistics
from tests.shards.synthetic_world import image, source_of

NAMES = {c.value: c.name for c in modality("OSMraster").classes}
# what may be written of an area that is drawn so
TAGS = {
    "bare": {"natural=sand", "natural=bare_rock"},
    "grass": {"landuse=meadow", "natural=grassland"},
    "farmland": {"landuse=farmland"},
    "forest": {"landuse=forest", "natural=wood"},
    "wetland": {"natural=wetland"},
    "glacier": {"natural=glacier"},
    "residential": {"landuse=residential"},
    "water": {"natural=water", "waterway=river"},
    "building": {"building=yes"},
    "road": {"highway=residential"},
}


@pytest.fixture(scope="module")
def tiles() -> list[Sample]:
    source = source_of(missing=0, modalities=("LULC", "OSM", *ON_REQUEST))
    return [source.sample(i) for i in range(150)]


def test_they_have_the_registry_s_form(tiles: list[Sample]):
    for name in ON_REQUEST:
        assert all(part_problem(tile.parts[name], modality(name)) is None for tile in tiles)


def test_they_are_made_for_those_who_ask_and_move_nothing():
    plain, asked = source_of(missing=0), source_of(missing=0, modalities=(*MODALITIES, *ON_REQUEST))
    assert not {*ON_REQUEST} & {*plain.modalities}
    before, after = plain.sample(7).parts, asked.sample(7).parts
    for name, part in before.items():
        np.testing.assert_array_equal(after[name], part)
    alone = source_of(missing=0, modalities=ON_REQUEST).sample(7).parts
    for name in ON_REQUEST:
        np.testing.assert_array_equal(alone[name], after[name])
    assert plain.fingerprint() != asked.fingerprint()


def test_data_sets_of_before_keep_their_fingerprint():
    assert source_of().fingerprint() == "ea6e75f7a71963db8bd7044572e07d60"


def test_the_later_date_is_lulc_and_nodata_is_nodata_on_both(tiles: list[Sample]):
    for tile in tiles:
        before, after = image(tile, "LULCchange")
        np.testing.assert_array_equal(after, image(tile, "LULC")[0])
        np.testing.assert_array_equal(before == 0, after == 0)


def test_some_land_changes_and_most_does_not(tiles: list[Sample]):
    changed = [np.mean(np.diff(image(t, "LULCchange").astype(int), axis=0) != 0) for t in tiles]
    assert 0.01 < np.mean(changed) < 0.1
    assert 0.3 < np.mean(np.array(changed) > 0) < 0.9
    assert max(changed) < 0.4
    other = source_of(seed=4, missing=0, modalities=("LULCchange",))
    moves = np.zeros((10, 10), int)
    for before, after in [image(t, "LULCchange") for t in (*tiles, other.sample(0))]:
        np.add.at(moves, (before[before != after], after[before != after]), 1)
    water, trees, crops, built, snow, rangeland = 1, 2, 4, 5, 7, 9
    assert not moves[:, water].any()
    assert moves[crops, built]
    assert moves[trees, rangeland]
    assert not moves[built].any()
    assert not moves[:, snow].any()


def test_the_osm_map_shows_what_the_tags_say(tiles: list[Sample]):
    seen = set()
    for tile in tiles:
        drawn = {NAMES[v] for v in np.unique(image(tile, "OSMraster")).tolist()} - {"none"}
        tags = set(str(tile.parts["OSM"]).split())
        assert all(TAGS[name] & tags for name in drawn)
        told = {name for name in TAGS if TAGS[name] & tags}
        # a hamlet may be all garden, or too small for a street
        assert told - drawn <= {"building", "road", "residential"}
        seen |= drawn
    assert seen == {*TAGS}


def test_the_osm_map_lies_on_the_land_cover(tiles: list[Sample]):
    cover_of = {1: 6, 2: 9, 3: 4, 4: 2, 5: 3, 6: 7, 7: 5, 10: 1, 12: 5, 14: 5}
    for tile in tiles:
        lulc, drawn = image(tile, "LULC")[0], image(tile, "OSMraster")[0]
        mapped = (drawn > 0) & (lulc > 0)
        expected = np.array([cover_of.get(v, 0) for v in range(15)])[drawn]
        np.testing.assert_array_equal(lulc[mapped], expected[mapped])
        assert mapped.sum() > 0.9 * (lulc > 0).sum()


def test_classes_of_both_dates_are_counted():
    sums = Statistics({"LULCchange": modality("LULCchange")})
    sums.add({"LULCchange": np.array([[[1, 2]], [[1, 0]]], np.uint8)})
    assert sums.classes()["LULCchange"][:3] == [1, 2, 1]


def test_the_two_dates_have_the_classes_of_lulc():
    one, two = modality("LULC"), modality("LULCchange")
    assert (one.classes, one.nodata, one.dtype) == (two.classes, two.nodata, two.dtype)
    assert two.bands == ("before", "after")


def test_what_this_earth_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"does not make slope; it makes .*OSMraster"):
        source_of(modalities=("DEM", "slope"))
