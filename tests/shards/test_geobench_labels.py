"""GEO-Bench's labels: class numbers, several classes, label maps, and how many classes there are."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.errors import SourceError
from shards.sources.own_rows import distinct_colors
from tests.shards.geobench_twin import PX, S2, Band, array, one, only_sample, optical, source_of


def test_a_class_number_becomes_one_hot_over_the_tasks_classes(tmp_path: Path) -> None:
    folder = one(tmp_path, optical(S2), label=2)
    row = source_of(folder).rows["label"]
    assert (row.kind, row.bands) == ("vector", ("forest", "river", "field"))
    assert array(only_sample(folder), "label").tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "label", [[0, 1, 1], np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]), [1, 2]]
)
def test_several_classes_become_multi_hot(tmp_path: Path, label: Any) -> None:
    folder = one(tmp_path, optical(S2), label=label, kind="MultiLabelClassification")
    assert source_of(folder).rows["label"].bands == ("forest", "river", "field")
    assert array(only_sample(folder), "label").tolist() == [0, 1, 1]


@pytest.mark.parametrize("label", [3, -1, [0, 7], "river", [[1], [0, 2]], 0.5])
def test_a_label_that_is_no_class_is_a_fault(tmp_path: Path, label: Any) -> None:
    sample = only_sample(one(tmp_path, optical(S2), label=label))
    assert list(sample.faults) == ["label"]
    assert "id_0.hdf5" in sample.faults["label"]
    assert "S2L1C" in sample.parts


def test_a_label_map_becomes_a_class_map_with_its_own_colours(tmp_path: Path) -> None:
    labels = np.arange(PX * PX).reshape(PX, PX) % 3
    mask = Band("label", labels.astype(np.int64), "SegmentationClasses")
    folder = one(tmp_path, [*optical(S2), mask], label=None, kind="SegmentationClasses")
    row = source_of(folder).rows["label"]
    assert (row.kind, row.num_classes) == ("classes", 3)
    assert [c.name for c in row.classes] == ["forest", "river", "field"]
    np.testing.assert_array_equal(array(only_sample(folder), "label")[0], labels)
    mask.data[0, 0] = 3
    spoilt = only_sample(
        one(tmp_path, [*optical(S2), mask], label=None, kind="SegmentationClasses")
    )
    assert "class 3 is not one of 0 .. 2" in spoilt.faults["label"]


def test_colours_are_distinct_and_always_the_same() -> None:
    colors = distinct_colors(256)
    assert len(set(colors)) == 256
    assert colors[:3] == distinct_colors(3)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)


def test_the_number_of_classes_may_come_from_elsewhere(tmp_path: Path) -> None:
    folder = one(tmp_path, optical(S2), classes=None)
    with pytest.raises(SourceError, match=r"write source\.num_classes=N"):
        _ = source_of(folder).rows
    assert source_of(folder, num_classes=4).rows["label"].num_bands == 4
    (folder / "label_map.json").write_text(json.dumps({"0": ["a"], "6": ["b"]}))
    assert source_of(folder).rows["label"].bands[-1] == "class 6"
