"""MMEarth's file of tiles, read piece by piece, against Python's json."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import SourceError
from shards.sources.tile_info import TileInfo

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(), _JSON, max_size=3), max_size=5),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_tile_info_is_read_as_json_is(
    tmp_path_factory: pytest.TempPathFactory, tiles: dict[str, Any], indent: int, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_tile_info.json"
    path.write_text(json.dumps(tiles, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert dict(TileInfo(path).items()) == tiles


def test_tiles_are_found_in_any_order_whatever_their_size(tmp_path: Path) -> None:
    path = tmp_path / "tile_info.json"
    # An entry beyond the first piece that is read, with a character that is cut there.
    tiles = {"a": {"x": "ä" * 5000}, "b": {"name": "a", "y": 1}, "c": {"z": [{}]}}
    path.write_text(json.dumps(tiles, ensure_ascii=False), encoding="utf-8")
    info = TileInfo(path)
    for tile in ("b", "c", "a", "a", "c", "b"):
        assert info.find(tile) == tiles[tile]


def test_a_cut_tile_info_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tile_info.json"
    path.write_text(json.dumps({"a": {"x": 1}, "b": {"y": 2}})[:-5])
    with pytest.raises(SourceError, match=r"tile_info\.json: damaged or cut at byte"):
        list(TileInfo(path).items())
