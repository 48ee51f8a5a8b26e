"""GEO-Bench folders as tasks: published splits, shares and statistics; hostile pickles; a prediction."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import ConfigError
from configs.schema import GeoBenchSourceConfig, InputSet, TaskConfig, TransferConfig
from pipeline.transfer.record import read_results
from pipeline.transfer.run import transfer
from pipeline.transfer.samples import open_samples
from pipeline.transfer.task import LabelledSamples
from shards.errors import SampleError, ShardError
from tests.real import real_samples
from tests.shards.geobench_twin import S2, optical, write_sample, write_task
from tests.transfer.test_files import EUROSAT_BANDS
from tests.transfer.worlds import open_task, save_stage2, stage2

M_EUROSAT = ("geobench", "classification_v1.0", "m-eurosat")


def config(folder: Path, kind: str = "classification", **more) -> TaskConfig:
    return TaskConfig.model_validate(
        {"type": kind, "data": {"type": "geobench", "path": folder}, "inputs": ["S2L1C"]} | more
    )


@pytest.fixture
def task(tmp_path):
    """A task of 12 samples, of which 1 % of the labels are one published sample."""
    folder = tmp_path / "m-tiny"
    folder.mkdir()
    names = [f"id_{i}" for i in range(12)]
    splits = {"train": names[:8], "valid": names[8:10], "test": names[10:]}
    for i, name in enumerate(names):
        write_sample(folder / f"{name}.hdf5", optical(S2, seed=i), label=i % 2)
    write_task(folder, splits, classes=("a", "b"))
    few = {**splits, "train": names[3:4]}
    (folder / "0.01x_train_partition.json").write_text(json.dumps(few))
    stats = {b: {"mean": 10.0 * i, "std": 1.0 + i} for i, b in enumerate(S2)}
    (folder / "band_stats.json").write_text(json.dumps(stats))
    return folder


def test_splits_shares_and_statistics_are_as_published(task):
    found = LabelledSamples("t", config(task))
    assert {s: len(i) for s, i in found.indices.items()} == {"train": 8, "val": 2, "test": 2}
    assert [int(x) for x in found.labels["train"]] == [0, 1] * 4
    few = found.samples.subset(0.01)
    assert few is not None
    assert [found.samples.keys[i] for i in few] == ["id_3"]
    assert found.samples.subset(0.5) is None
    # Shares of other labels that round to a published one are drawn, not taken for it.
    assert found.samples.subset(0.0125) is None
    assert found.samples.subset(0.014) is None
    mean, std = found.statistics("S2L1C")
    names = found.samples.rows["S2L1C"].bands
    assert mean[names.index("B04")] == 30.0
    assert std[names.index("B8A")] == 9.0


def test_a_sample_in_two_splits_is_refused(task):
    path = task / "default_partition.json"
    splits = json.loads(path.read_text())
    path.write_text(json.dumps(splits | {"test": [*splits["test"], splits["train"][0]]}))
    with pytest.raises(ConfigError, match=r"1 samples are in train and test \(id_0\)"):
        open_samples(config(task))


def test_a_damaged_file_of_statistics_is_told(task):
    (task / "band_stats.json").write_text('{"02 - Blue": 3}')
    with pytest.raises(ShardError, match="no band statistics of GEO-Bench"):
        LabelledSamples("t", config(task)).statistics("S2L1C")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_task_whose_pickle_wants_to_run_code_is_refused(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (task / "task_specs.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ShardError, match="which GEO-Bench's files do not: do not trust this file"):
        open_samples(config(task))
    assert not (tmp_path / "exploded").exists()


def test_a_sample_whose_pickle_wants_to_run_code_is_left_out(task, tmp_path, monkeypatch, capsys):
    import h5py

    monkeypatch.chdir(tmp_path)
    with h5py.File(task / "id_0.hdf5", "r+") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": Bomb()}))
    found = LabelledSamples("t", config(task))
    assert len(found.indices["train"]) == 7
    assert "do not trust this file" in capsys.readouterr().out
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(SampleError):
        found.samples.read(0, ["label"])


def run_of(tmp_path: Path, tasks: dict[str, TaskConfig]) -> list[dict]:
    config = TransferConfig(
        kind="transfer", backbone=str(save_stage2(tmp_path / "run")), out=tmp_path / "out",
        tasks=tasks, protocols=("knn", "probe"), neighbours=1, bootstrap=0,
    )  # fmt: skip
    transfer(config)
    return read_results(config.out)


def test_the_real_sample_goes_through_to_a_prediction(tmp_path):
    """There is one sample, here under three names: what is in training is recognised in testing."""
    folder = tmp_path / "m-eurosat"
    shutil.copytree(real_samples(*M_EUROSAT), folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    for name in ("a", "b", "c"):
        shutil.copy(folder / "id_1905.hdf5", folder / f"{name}.hdf5")
    splits = {"train": ["a"], "valid": ["b"], "test": ["c"]}
    (folder / "one_partition.json").write_text(json.dumps(splits))
    data = GeoBenchSourceConfig(path=folder, partition="one")
    task = TaskConfig(
        type="classification", data=data, modality_map={"S2L1C": "S2"}, statistics="task"
    )
    lines = run_of(tmp_path, {"eurosat": task})
    assert {(x["protocol"], x["num_test"]) for x in lines} == {("knn", 1), ("probe", 1)}
    assert all(x["metrics"]["accuracy"]["value"] == 1 for x in lines)
    assert len(lines[0]["confusion"]) == 10
    # 64 px of 13 bands become four bands, standardised by the benchmark's own statistics.
    seen = open_task(task, stage2(tmp_path / "again"))
    batch = seen.batch("test", [0], InputSet())
    assert batch.images["S2"].shape == (1, 4, 64, 64)
    assert abs(float(batch.images["S2"].mean()) - 100) < 3 * 50


def test_the_real_eurosat_tiles_go_through_to_a_prediction(tmp_path):
    """Six tiles of two classes: two of each teach, and the rest is told apart by its near infrared."""
    splits = {"1": "train", "2": "val", "3": "test"}
    for path in sorted(real_samples("eurosat_small").glob("*/*.tif")):
        split = splits[path.stem.rpartition("_")[2]]
        target = tmp_path / "eurosat" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    task = TaskConfig.model_validate(
        {
            "type": "classification", "modality_map": {"S2L1C": "S2"}, "statistics": "task",
            "data": {
                "type": "folders", "path": tmp_path / "eurosat",
                "image": {"modality": "S2L1C", "bands": EUROSAT_BANDS},
            },
        }
    )  # fmt: skip
    lines = run_of(tmp_path, {"eurosat": task})
    assert [x["num_test"] for x in lines] == [2, 2]
    knn = next(x for x in lines if x["protocol"] == "knn")
    assert np.sum(knn["confusion"]) == 2
