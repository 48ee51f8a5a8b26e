"""`doctor` on this machine, and on one where things are broken."""

import json
import shutil
import subprocess

import pytest

from pipeline.__main__ import main
from pipeline.inspection import doctor


def verdicts(capsys, *argv: str) -> tuple[int, dict[str, list[dict]]]:
    code = main(["doctor", "--json", *argv])
    found: dict[str, list[dict]] = {}
    for finding in json.loads(capsys.readouterr().out):
        found.setdefault(finding["topic"], []).append(finding)
    return code, found


def test_this_machine_can_train(tmp_path, capsys):
    code, found = verdicts(capsys, "--out", str(tmp_path / "runs"))
    assert code == 0
    assert found["torch"][0]["verdict"] == "fine"
    assert found["bf16 on cpu"][0]["verdict"] == "fine"
    storage = found[f"folder {tmp_path / 'runs'}"]
    assert any("flushed and renamed" in f["found"] for f in storage)
    assert any("locks work" in f["found"] for f in storage)
    assert not list((tmp_path / "runs").iterdir()), "nothing may be left behind"
    told = [f for findings in found.values() for f in findings if f["verdict"] != "fine"]
    assert all(f["advice"] for f in told)


def test_a_table_for_a_person(tmp_path, capsys):
    assert main(["doctor", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "what to do" in shown
    assert "0 failures" in shown


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, found = verdicts(capsys, "--out", str(tmp_path / "file" / "runs"))
    assert code == 1
    assert found[f"folder {tmp_path / 'file' / 'runs'}"][0]["verdict"] == "failure"


def test_no_data_set_is_a_failure(tmp_path, capsys):
    code, found = verdicts(capsys, "--out", str(tmp_path), "--shards", str(tmp_path / "none"))
    assert code == 1
    assert found["shards"][0]["verdict"] == "failure"


def test_a_foreign_apex_and_a_missing_package_are_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "a_package_that_is_not_there"))
    code, found = verdicts(capsys, "--out", str(tmp_path / "runs"))
    assert code == 1
    assert found["a_package_that_is_not_there"][0]["verdict"] == "failure"
    assert "not NVIDIA Apex" in found["apex"][0]["found"]


def test_a_gpu_that_torch_does_not_see_is_a_failure(tmp_path, monkeypatch, capsys):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: x)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert shutil.which("nvidia-smi") == str(tool)
    code, found = verdicts(capsys, "--out", str(tmp_path / "runs"))
    assert code == 1
    assert "torch" in found["GPU"][0]["found"]


@pytest.mark.parametrize("failing", [OSError, subprocess.TimeoutExpired("x", 1)])
def test_a_tool_that_hangs_or_breaks_stops_nothing(failing, tmp_path, monkeypatch, capsys):
    def run(*_args, **_kwargs):
        raise failing

    monkeypatch.setattr(doctor.subprocess, "run", run)
    code, _ = verdicts(capsys, "--out", str(tmp_path))
    assert code == 0
