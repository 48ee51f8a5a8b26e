"""What is kept in memory: never more than was allowed, read no more often than needed."""

import weakref

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.schema import InputSet, TransferConfig
from pipeline.transfer import bench
from pipeline.transfer.feed import FrozenFeed
from pipeline.transfer.record import cells, read_results
from pipeline.transfer.run import transfer
from pipeline.transfer.task import LabelledSamples, Task
from tests.transfer.test_run import made  # noqa: F401
from tests.transfer.worlds import BANDS, CPU, mask_task, open_task, stage2, write_masks

SETS = [InputSet(without_bands={"S2": BANDS[:k]} if k else {}) for k in range(4)]


@pytest.fixture
def task(tmp_path) -> Task:
    return open_task(mask_task(write_masks(tmp_path / "data", 24)), stage2(tmp_path / "run"))


def feed_of(task, tmp_path, limit_bytes) -> FrozenFeed:
    backbone = stage2(tmp_path / "run")
    last = [backbone.depth - 1]
    limit_gb = limit_bytes / 1e9
    return FrozenFeed(task, backbone, last, CPU, pooled=False, batch=4, limit_gb=limit_gb)


def test_features_of_all_calls_together_keep_within_the_limit(task, tmp_path):
    """Tests make room for each other and never take what teaches; features come out the same."""
    free = feed_of(task, tmp_path, 1e9)
    train, test = np.arange(12), np.arange(6)
    free.keep("train", SETS[0], train)
    most = free.num_bytes * 1.6
    feed = feed_of(task, tmp_path, most)
    feed.keep("train", SETS[0], train)
    for given in (*SETS, *SETS):
        feed.keep("test", given, test)
        assert feed.num_bytes <= most
        assert len(feed.show("train", train, SETS[0]).labels) == 12
        free.keep("test", given, test)
        a, b = (f.show("test", test, given).maps[0] for f in (feed, free))
        assert torch.equal(a, b)
    # Other inputs to learn from: the first ones make room.
    feed.keep("train", SETS[1], train)
    assert feed.num_bytes <= most
    told = r"features of 12 train samples .* raise it, write tasks\.t\.max_train=N"
    with pytest.raises(ConfigError, match=told):
        feed_of(task, tmp_path, most / 2).keep("train", SETS[0], train)


def test_who_has_what_is_read_once_however_little_is_kept(tmp_path, monkeypatch):
    backbone = stage2(tmp_path / "run")
    source = LabelledSamples("t", mask_task(write_masks(tmp_path / "data", 24)))
    task, read = Task(source, backbone, cache_gb=0), []
    original = task._parts
    monkeypatch.setattr(task, "_parts", lambda i: read.append(i) or original(i))
    for given in SETS:
        assert len(task.with_input("train", given)) == 12
    assert len(read) == 12


def test_labels_of_maps_are_held_small_and_taught_as_classes(task):
    assert {label.dtype for label in task.labels["train"]} == {np.dtype(np.int16)}
    assert task.label_batch("train", np.array([0, 1])).dtype == torch.int64


def test_of_random_twins_one_is_held_at_a_time(made, monkeypatch):  # noqa: F811
    held = []

    class Noted(FrozenFeed):
        def __init__(self, *args, **more):
            assert not any(ref() for ref in held), "features of an earlier twin are still there"
            held.append(weakref.ref(self))
            super().__init__(*args, **more)

    monkeypatch.setattr(bench, "FrozenFeed", Noted)
    config = made(init="random", seeds=[0, 1, 2], fractions=[0.5, 1.0])
    transfer(config)
    assert len(held) == 3
    assert len(read_results(config.out)) == 6


def test_cells_come_seed_by_seed(made):  # noqa: F811
    config: TransferConfig = made(protocols=["finetune", "probe"], seeds=[3, 1], fractions=[0.5, 1])
    found = cells(config, "masks", ["all"])
    assert [c.seed for c in found] == [3] * 4 + [1] * 4
    assert [c.protocol for c in found] == ["probe", "probe", "finetune", "finetune"] * 2
