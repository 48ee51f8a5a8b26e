"""The code of a run, copied when the run is submitted: editing the checkout changes no queued job.

    RUN_ROOT/code/<digest>/     configs/ shards/ pipeline/ launch/ slurm/  CODE_VERSION

The name is the digest of the content: submitting unchanged code again makes no second copy, and all
jobs of a submission share one. A job puts the folder first on PYTHONPATH and sets PYTHONSAFEPATH,
because `python -m` would otherwise look into the folder the job starts in, often the checkout, first.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from launch.errors import LaunchError

PACKAGES = ("configs", "shards", "pipeline", "launch")
SCRIPTS = "slurm"
VERSION = "CODE_VERSION"

# Where this very code lies: a checkout, or the place that packages are installed in.
_HERE = Path(__file__).resolve().parents[1]
_NUM_DIGITS = 16


@dataclass(frozen=True)
class Snapshot:
    """Files as `(path in the snapshot, where it lies now)`, and where the copy belongs."""

    folder: Path
    version: str
    files: tuple[tuple[Path, Path], ...]

    def write(self) -> None:
        """Copy the files, unless a job that was submitted before has them already."""
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        partial = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        for name, source in self.files:
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            _protect(target)
        (partial / VERSION).write_text(f"{self.version}\n")
        _protect(partial / VERSION)
        try:
            partial.rename(self.folder)
        except OSError:
            # Another submission of the same code was quicker.
            if not self.folder.is_dir():
                raise
            shutil.rmtree(partial)


def take_snapshot(root: Path, source: Path = _HERE) -> Snapshot:
    """The code that lies in `source`, to be copied below `root`. Copies nothing yet."""
    files = tuple(sorted(_tracked(source) or _installed(source)))
    revision = _revision(source)
    digest = hashlib.sha256(revision.encode())
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    short = digest.hexdigest()[:_NUM_DIGITS]
    folder = root.absolute() / "code" / short
    return Snapshot(folder, f"{revision} code {short}", files)


def _protect(path: Path) -> None:
    # The files alone, not the folders: `rm -r RUN` would stop at a read-only folder.
    path.chmod(path.stat().st_mode & 0o555)


def _tracked(source: Path) -> list[tuple[Path, Path]]:
    """Tracked files and new ones that git does not ignore; none where `source` is no checkout."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--",
                  *PACKAGES, SCRIPTS)  # fmt: skip
    names = [Path(name) for name in sorted(set((listed or "").split("\0"))) if name]
    # A file that was deleted and not yet committed is still listed.
    return [(name, source / name) for name in names if (source / name).is_file()]


def _installed(source: Path) -> list[tuple[Path, Path]]:
    """The packages as they were installed, and the job scripts that came with them."""
    files = [
        (path.relative_to(source), path)
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    beside = source / SCRIPTS
    installed = Path(sysconfig.get_path("data")) / "share" / "eo-pretrain" / SCRIPTS
    scripts = beside if beside.is_dir() else installed
    if not (scripts / "common.sh").is_file():
        raise LaunchError(
            f"no {SCRIPTS}/common.sh in {beside} or {installed}, which every Slurm job needs; submit "
            "from a checkout of the project, or install it anew"
        )
    return files + [(Path(SCRIPTS) / path.name, path) for path in scripts.iterdir()]


def _revision(source: Path) -> str:
    described = _git(source, "describe", "--always", "--dirty=+changes")
    return described.strip() if described else importlib.metadata.version("eo-pretrain")


def _git(source: Path, *arguments: str) -> str | None:
    """What git prints, or None: no git, not a checkout, or not one that git wants to touch."""
    if not (source / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    return None
