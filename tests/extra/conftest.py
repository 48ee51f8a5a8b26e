"""Running scripts where the public terratorch package is.

It has dependencies that do not go with ours, so its modules run in an environment of their own: that of
TERRATORCH_PYTHON, or one made here, which borrows torch from ours.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RunPublic = Callable[..., dict[str, Any]]


def make_environment(folder: Path) -> Path:
    """An interpreter that finds terratorch, and everything else where this one does."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = subprocess.run(
        [python, "-c", query], check=True, capture_output=True, text=True
    ).stdout
    Path(packages.strip(), "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    without_needs = ["--no-deps", "terratorch>=1.2,<1.3", "timm>=1.0,<1.1"]
    for wanted in (without_needs, ["einops", "diffusers"]):
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"terratorch cannot be installed: {done.stderr[-500:]}")
    return python


@pytest.fixture(scope="session")
def public_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter that has terratorch."""
    given = os.environ.get("TERRATORCH_PYTHON")
    return Path(given) if given else make_environment(tmp_path_factory.mktemp("tt") / "venv")


@pytest.fixture(scope="session")
def run_public(public_python: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPublic:
    """Runs a script of this folder there; gives what it saved."""

    def run(script: str, *arguments: str | Path, borrows: bool = False) -> dict[str, Any]:
        """`borrows`: this project and its dependencies are found there as well."""
        out = tmp_path_factory.mktemp("public") / "found.pt"
        here = Path(__file__).parent
        paths = [str(here.parents[1]), sysconfig.get_paths()["purelib"]] if borrows else []
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [str(public_python), str(here / script), str(out), *map(str, arguments)]
        subprocess.run(command, check=True, timeout=600, env=env)
        return torch.load(out, weights_only=True)

    return run
