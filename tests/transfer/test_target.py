"""Labels: what a class map, a vector and an image are to each type of task; strata."""

import numpy as np
import pytest

from configs import ConfigError
from configs.registry import modality
from configs.schema import ShardLabels, TaskConfig
from pipeline.transfer.target import IGNORED, Target
from shards.sources.own_rows import label_row

DATA = ShardLabels(shards="x")
LULC, CHM = modality("LULC"), modality("CHM")


def target(row, kind, **more):
    return Target(row, TaskConfig(type=kind, data=DATA, **more))


def label(found: Target, part: np.ndarray) -> np.ndarray:
    array = found.of(part)
    assert array is not None
    return array


def test_a_class_map_has_no_class_for_no_data():
    lulc = target(LULC, "segmentation")
    part = np.array([[[0, 1], [2, 9]]], dtype=np.uint8)
    assert lulc.names[0] == "water"
    assert label(lulc, part).tolist() == [[IGNORED, 0], [1, 8]]
    assert lulc.of(part * 0) is None
    assert lulc.of(None) is None


def test_of_a_class_map_the_most_frequent_class_or_all_that_cover_enough():
    part = np.array([[[0, 0, 0, 0], [4, 4, 4, 2]]], dtype=np.uint8)
    assert target(LULC, "classification").of(part) == LULC.classes[4].value - 1
    hot = label(target(LULC, "multilabel", min_share=0.3), part)
    assert np.flatnonzero(hot).tolist() == [3]
    assert np.flatnonzero(label(target(LULC, "multilabel", min_share=0.2), part)).tolist() == [1, 3]


def test_of_a_vector_one_class_or_several():
    row = label_row("label", "", ["a", "b", "c"])
    assert target(row, "classification").of(np.array([0, 1, 0], np.uint8)) == 1
    assert target(row, "classification").of(np.array([1, 1, 0], np.uint8)) is None
    assert label(target(row, "multilabel"), np.array([1, 1, 0], np.uint8)).tolist() == [1, 1, 0]


def test_regression_counts_where_something_was_measured():
    part = np.array([[[1.5, np.nan]]], dtype=np.float32)
    assert np.isnan(label(target(CHM, "regression"), part)).sum() == 1
    assert target(CHM, "regression").of(part * np.nan) is None


@pytest.mark.parametrize(("row", "kind"), [(CHM, "segmentation"), (LULC, "regression")])
def test_a_label_that_does_not_fit_the_task_is_refused(row, kind):
    with pytest.raises(ConfigError, match=f"a {kind} task needs"):
        target(row, kind)


def test_strata_are_classes_or_fifths():
    chm = target(CHM, "regression")
    labels = [np.full((1, 2, 2), v, dtype=np.float32) for v in range(10)]
    assert np.bincount(chm.strata(labels)).tolist() == [2] * 5
    row = label_row("label", "", ["often", "rare"])
    both = [np.array(x, dtype=np.float32) for x in ([1, 0], [1, 1], [1, 0], [0, 0])]
    assert target(row, "multilabel").strata(both).tolist() == [0, 1, 0, 2]
    lulc = target(LULC, "segmentation")
    assert lulc.strata([np.array([[0, 1], [1, IGNORED]])]).tolist() == [1]
