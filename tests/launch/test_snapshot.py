import importlib.metadata
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from launch import snapshot
from launch.errors import LaunchError
from launch.snapshot import PACKAGES, take_snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout of a few small files."""
    folder = tmp_path / "checkout"
    for package in PACKAGES:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(f"NAME = {package!r}\n")
    (folder / "slurm").mkdir()
    (folder / "slurm" / "common.sh").write_text("echo hello\n")
    (folder / "notes.txt").write_text("not code\n")
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_holds_the_code_with_new_files_and_without_ignored_ones(source, tmp_path):
    (source / "shards" / "new.py").touch()
    (source / "shards" / "x.log").touch()
    (source / "pipeline" / "__init__.py").unlink()
    code = take_snapshot(tmp_path / "run", source)
    assert not code.folder.exists()
    code.write()
    assert names(code.folder) == {
        "CODE_VERSION",
        "configs/__init__.py",
        "launch/__init__.py",
        "shards/__init__.py",
        "shards/new.py",
        "slurm/common.sh",
    }
    version = (code.folder / "CODE_VERSION").read_text()
    assert version == f"{git(source, 'describe', '--always')}+changes code {code.folder.name}\n"


def test_its_name_is_its_content(source: Path, tmp_path: Path) -> None:
    first = take_snapshot(tmp_path / "run", source)
    first.write()
    written = first.folder.stat().st_mtime_ns
    again = take_snapshot(tmp_path / "run", source)
    again.write()
    assert again == first
    assert first.folder.stat().st_mtime_ns == written
    (source / "shards" / "__init__.py").write_text("NAME = 'other'\n")
    assert take_snapshot(tmp_path / "run", source).folder != first.folder
    assert first.folder.parent == tmp_path / "run" / "code"


def test_its_files_cannot_be_edited_by_mistake(source: Path, tmp_path: Path) -> None:
    code = take_snapshot(tmp_path / "run", source)
    code.write()
    for path in code.folder.rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH), path


def test_two_submissions_at_once_end_with_one_whole_copy(source, tmp_path, monkeypatch) -> None:
    mine, other = (take_snapshot(tmp_path / "run", source) for _ in range(2))
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(snapshot.os, "getpid", lambda: 1)
        other.write()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    mine.write()
    assert [path.name for path in (tmp_path / "run" / "code").iterdir()] == [mine.folder.name]
    assert len(names(mine.folder)) == 6


def test_without_a_checkout_the_installed_packages_are_copied(source, tmp_path) -> None:
    shutil.rmtree(source / ".git")
    (source / "shards" / "__pycache__").mkdir()
    (source / "shards" / "__pycache__" / "x.pyc").touch()
    code = take_snapshot(tmp_path / "run", source)
    assert code.version.split()[0] == importlib.metadata.version("eo-pretrain")
    assert {str(name) for name, _ in code.files} == {
        *(f"{package}/__init__.py" for package in PACKAGES),
        "slurm/common.sh",
    }


def test_job_scripts_are_found_where_pip_puts_them(source, tmp_path, monkeypatch) -> None:
    shutil.rmtree(source / ".git")
    shutil.rmtree(source / "slurm")
    with pytest.raises(LaunchError, match=r"no slurm/common\.sh in .* submit from a checkout"):
        take_snapshot(tmp_path / "run", source)
    scripts = tmp_path / "prefix" / "share" / "eo-pretrain" / "slurm"
    scripts.mkdir(parents=True)
    (scripts / "common.sh").touch()
    monkeypatch.setattr(snapshot.sysconfig, "get_path", lambda _: str(tmp_path / "prefix"))
    files = dict(take_snapshot(tmp_path / "run", source).files)
    assert files[Path("slurm/common.sh")] == scripts / "common.sh"


def test_this_very_code_is_found(tmp_path: Path, root: Path) -> None:
    files = dict(take_snapshot(tmp_path).files)
    assert files[Path("launch/snapshot.py")] == root / "launch" / "snapshot.py"
    assert Path("slurm/rank.sh") in files
    assert Path("configs/stage2/small.yaml") in files
    assert not [name for name in files if name.suffix == ".pyc"]
