"""Which data a result is of: other images, labels or splits are other data, the same files are not."""

import os

import numpy as np
import pytest

from configs import parse_config, to_yaml
from configs.registry import modality
from configs.schema import ShardsConfig, TaskConfig
from pipeline.__main__ import main
from pipeline.transfer.record import read_results
from pipeline.transfer.samples import source_digest
from shards import open_dataset
from shards.build import build
from shards.errors import SourceError
from shards.extra import ExtraWriter
from tests.shards.geobench_twin import S2, optical, write_sample, write_task
from tests.transfer.test_run import made  # noqa: F401
from tests.transfer.worlds import BANDS, mask_task, write_masks, write_tif


@pytest.fixture
def command(made, tmp_path):  # noqa: F811
    path = tmp_path / "t.yaml"
    path.write_text(to_yaml(made()))
    return ["transfer", "--config", str(path)]


def later(path):
    """A second later: a clock that counts in whole ones tells it too."""
    told = path.stat()
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns + 10**9))


def test_other_images_of_the_same_labels_are_judged_anew(made, command, tmp_path, capsys):  # noqa: F811
    assert main(command) == 0
    first = read_results(made().out)[0]["metrics"]["miou"]["value"]
    rng = np.random.default_rng(0)
    for i in range(24):
        noise = rng.normal(100, 20, (4, 16, 16)).astype(np.float32)
        later(write_tif(tmp_path / "data" / f"i{i}.tif", noise))
    capsys.readouterr()
    assert main(command) == 0
    assert "already done" not in capsys.readouterr().out
    lines = read_results(made().out)
    assert len(lines) == 2
    assert lines[1]["metrics"]["miou"]["value"] < first - 0.2
    assert main(command) == 0
    assert "already done" in capsys.readouterr().out


def test_other_labels_of_the_same_images_are_judged_anew(made, command, tmp_path, capsys):  # noqa: F811
    assert main(command) == 0
    mask = tmp_path / "data" / "m0.tif"
    mask.write_bytes((tmp_path / "data" / "m1.tif").read_bytes())
    later(mask)
    assert main(command) == 0
    assert "already done" not in capsys.readouterr().out
    assert len(read_results(made().out)) == 2


def test_scores_of_data_that_is_gone_stand(command, tmp_path, capsys):
    assert main(command) == 0
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert main(command) == 0
    assert "already done" in capsys.readouterr().out


def test_files_are_known_by_name_size_and_time(tmp_path):
    table = write_masks(tmp_path, 8)
    config = mask_task(table)
    first = source_digest(config)
    assert source_digest(config) == first
    table.write_text(table.read_text().replace("i0.tif,m0.tif,train", "i0.tif,m0.tif,val"))
    moved = source_digest(config)
    later(tmp_path / "i3.tif")
    touched = source_digest(config)
    (tmp_path / "m3.tif").unlink()
    assert len({first, moved, touched, source_digest(config)}) == 4
    # What no line of the table names is no part of it.
    before = source_digest(config)
    write_tif(tmp_path / "other.tif", np.zeros((1, 2, 2), dtype=np.uint8))
    assert source_digest(config) == before
    table.unlink()
    with pytest.raises(SourceError, match="no such table"):
        source_digest(config)


def test_files_in_folders_of_classes_are_known(tmp_path):
    data = {"type": "folders", "path": tmp_path, "image": {"modality": "S2", "bands": BANDS}}
    config = TaskConfig.model_validate({"type": "classification", "data": data})
    for name in ("a", "b"):
        write_tif(tmp_path / name / "0.tif", np.ones((4, 4, 4), dtype=np.float32))
    first = source_digest(config)
    later(tmp_path / "a" / "0.tif")
    touched = source_digest(config)
    write_tif(tmp_path / "b" / "1.tif", np.ones((4, 4, 4), dtype=np.float32))
    assert len({first, touched, source_digest(config)}) == 3


def test_a_folder_of_geobench_is_known_without_opening_a_sample(tmp_path):
    for i in range(3):
        write_sample(tmp_path / f"id_{i}.hdf5", optical(S2, seed=i), label=i % 2)
    write_task(tmp_path, {"train": ["id_0"], "valid": ["id_1"], "test": ["id_2"]})
    data = {"type": "geobench", "path": tmp_path}
    config = TaskConfig.model_validate({"type": "classification", "data": data})
    first = source_digest(config)
    (tmp_path / "notes.txt").write_text("no part of it")
    assert source_digest(config) == first
    write_sample(tmp_path / "id_2.hdf5", optical(S2, seed=9), label=0)
    later(tmp_path / "id_2.hdf5")
    assert source_digest(config) != first


def test_shards_are_known_by_their_fingerprints(tmp_path):
    def digest(seed: int) -> str:
        config = parse_config(
            {
                "kind": "shards", "out": str(tmp_path / "set"), "samples_per_shard": 8,
                "source": {
                    "type": "synthetic", "num_samples": 16, "tile_px": 12, "seed": seed,
                    "modalities": ["S2L2A", "LULC"],
                },
                "splits": {"train": 0.7, "val": 0.3},
            }
        )  # fmt: skip
        assert isinstance(config, ShardsConfig)
        build(config)
        return source_digest(task())

    def task(**more: object) -> TaskConfig:
        data = {"type": "shards", "shards": tmp_path / "set", **more}
        return TaskConfig.model_validate({"type": "segmentation", "label": "LULC", "data": data})

    first = digest(0)
    assert source_digest(task()) == first
    assert source_digest(task(test="train", train="val")) != first
    (tmp_path / "set").rename(tmp_path / "old")
    assert digest(1) != first
    # A modality that was added later has a fingerprint of its own.
    (tmp_path / "set").rename(tmp_path / "other")
    (tmp_path / "old").rename(tmp_path / "set")
    found = set()
    for height in (1, 2):
        dataset = open_dataset(tmp_path / "set")
        writer = ExtraWriter(dataset, "DEM", {"height": height}, modality("DEM"))
        for split, shard in dataset.shards:
            count = len(dataset.shard_samples(split, shard))
            dem = np.full((1, 12, 12), height, np.int16)
            writer.write_shard(f"{split}/{shard}", [dem] * count)
        writer.commit()
        found.add(source_digest(task()))
        writer.folder.rename(tmp_path / f"DEM{height}")
    assert len(found | {first}) == 3
