"""Whether results are still of what is there: weights, files, shard sets."""

import json
import os
from pathlib import Path

import pytest

from configs.schema import DataConfig
from pipeline.engine.errors import RunError
from pipeline.engine.identity import MADE_OF, digest_of, is_made_of, trained_on
from shards.mixed import mixed_fingerprint


def shard_set(folder: Path, fingerprint: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return str(folder)


def artifact(folder: Path, weights: bytes) -> Path:
    (folder / "artifact").mkdir(parents=True, exist_ok=True)
    (folder / "artifact" / "config.json").write_text("{}")
    (folder / "artifact" / "model.safetensors").write_bytes(weights)
    return folder


def test_other_weights_files_or_shards_are_another_result(tmp_path: Path):
    run, file = artifact(tmp_path / "run", b"a"), tmp_path / "scene.tif"
    file.write_bytes(b"1234")
    shards = shard_set(tmp_path / "shards", "a")
    found = [digest_of([run], [file], shards)]
    assert digest_of([run / "artifact"], [file], shards) == found[0]
    artifact(run, b"b")
    found.append(digest_of([run], [file], shards))
    os.utime(file, ns=(1, 1))
    found.append(digest_of([run], [file], shards))
    shard_set(tmp_path / "shards", "b")
    found.append(digest_of([run], [file], shards))
    assert len(set(found)) == 4
    with pytest.raises(RunError, match="no model in"):
        digest_of([tmp_path / "none"], [])


def test_a_damaged_record_is_of_nothing(tmp_path: Path):
    marker = tmp_path / "scores.json"
    assert not is_made_of(marker, "a")
    for text, wanted in (("[", False), ("[]", False), (json.dumps({MADE_OF: "a"}), True)):
        marker.write_text(text)
        assert is_made_of(marker, "a") is wanted


def test_a_run_is_of_the_sets_that_it_mixed(tmp_path: Path):
    a, b = (shard_set(tmp_path / name, name) for name in "ab")
    alone = DataConfig(shards=a)
    mixed = DataConfig.model_validate({"shards": a, "mix": [{"shards": b}]})
    record = {"dataset": {"fingerprint": mixed_fingerprint(["a", "b"])}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert trained_on(tmp_path, mixed)
    assert not trained_on(tmp_path, alone)
    shard_set(tmp_path / "b", "c")
    assert not trained_on(tmp_path, mixed)
    # What cannot be read here did not change.
    (tmp_path / "b" / "manifest.json").unlink()
    assert trained_on(tmp_path, mixed)
