"""What a run leaves appears whole, and is what its record says."""

from pathlib import Path

import pytest
import torch

from pipeline.engine.artifact import new_folder, read_record, read_weights, write_artifact
from pipeline.engine.errors import RunError

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "count": torch.tensor([3])}


def test_weights_and_record_come_back_in_fp32(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", {**WEIGHTS, "half": torch.ones(2).bfloat16()}, {"kind": "x"})
    found = read_weights(tmp_path / "a")
    assert torch.equal(found["a"], WEIGHTS["a"])
    assert found["count"].dtype == torch.int64
    assert found["half"].dtype == torch.float32
    assert read_record(tmp_path / "a")["kind"] == "x"


def test_what_was_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", WEIGHTS, {"kind": "old"})

    def interrupted() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_record(tmp_path / "a")["kind"] == "old"
    write_artifact(tmp_path / "a", WEIGHTS, {"kind": "new"})
    assert read_record(tmp_path / "a")["kind"] == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_other_bytes_than_the_record_tells_are_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", WEIGHTS, {})
    path = tmp_path / "a" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="is damaged"):
        read_weights(tmp_path / "a")
    path.unlink()
    with pytest.raises(RunError, match="is missing"):
        read_weights(tmp_path / "a")
    with pytest.raises(RunError, match=r"no tokenizer in .* train it first"):
        read_record(tmp_path / "b", "tokenizer")
