"""Labels in our own shards: splits apart, the label never an input, other names refused."""

import numpy as np
import pytest

from configs import ConfigError, parse_config
from configs.schema import ShardsConfig, TaskConfig
from pipeline.transfer.task import LabelledSamples
from shards import ShardError
from shards.build import build


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "set"
    config = parse_config(
        {
            "kind": "shards", "out": str(out), "samples_per_shard": 16,
            "source": {
                "type": "synthetic", "num_samples": 48, "tile_px": 12,
                "modalities": ["S2L2A", "S1GRD", "LULC", "CHM"],
            },
            "splits": {"train": 0.7, "val": 0.3},
        }
    )  # fmt: skip
    assert isinstance(config, ShardsConfig)
    build(config)
    return out


def task(shards, **more) -> TaskConfig:
    values = {"type": "segmentation", "label": "LULC", "data": {"type": "shards", "shards": shards}}
    return TaskConfig.model_validate(values | more)


def test_the_test_split_is_the_one_that_pretraining_never_saw(shards):
    found = LabelledSamples("t", task(shards))
    parts = [set(found.indices[s].tolist()) for s in ("train", "val", "test")]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts))
    splits = found.samples.splits
    assert len(splits["train"]) > 2 * len(splits["val"])
    again = LabelledSamples("t", task(shards))
    assert np.array_equal(again.indices["val"], found.indices["val"])
    assert again.fingerprint == found.fingerprint


def test_a_label_is_never_an_input(shards):
    found = LabelledSamples("t", task(shards, type="regression", label="CHM"))
    assert list(found.inputs) == ["S2L2A", "S1GRD"]
    with pytest.raises(ConfigError, match=r"inputs names CHM; images that are not the label are"):
        LabelledSamples("t", task(shards, type="regression", label="CHM", inputs=["CHM"]))


def test_wrong_names_are_told(shards):
    with pytest.raises(ConfigError, match=r"tasks\.t\.label=Trees; the data has"):
        LabelledSamples("t", task(shards, label="Trees"))
    with pytest.raises(ShardError, match="has no split 'holdout'"):
        LabelledSamples(
            "t", task(shards, data={"type": "shards", "shards": shards, "test": "holdout"})
        )
    same = {"type": "shards", "shards": shards, "test": "train"}
    with pytest.raises(ConfigError, match="samples are in train and test: choose splits apart"):
        LabelledSamples("t", task(shards, data=same))


def test_few_samples_are_spread_evenly(shards):
    whole = LabelledSamples("t", task(shards)).indices["train"]
    few = LabelledSamples("t", task(shards, max_train=4)).indices["train"]
    assert len(few) == 4
    assert set(few) <= set(whole)


def test_statistics_are_those_of_the_manifest(shards):
    from shards import open_dataset

    found = LabelledSamples("t", task(shards)).statistics("S2L2A")
    assert found == open_dataset(shards).statistics["S2L2A"]
