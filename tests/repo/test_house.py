"""Rules of the house that no tool checks."""

import ast
import configparser
import re
from pathlib import Path

import pytest

PACKAGES = ("configs", "shards", "pipeline", "launch")


def sources(root: Path) -> list[Path]:
    return [p for package in PACKAGES for p in sorted((root / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_the_engine_knows_torch_distributed(root):
    for path in sources(root):
        if (root / "pipeline" / "engine") not in path.parents:
            assert not any(n.startswith("torch.distributed") for n in imported(path)), path


def test_apex_is_never_a_dependency(root):
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    names = {
        re.split(r"[^a-z0-9_-]", line.strip().lower())[0]
        for text in lists
        for line in text.splitlines()
    }
    assert "deepspeed" in names
    assert not names & {"apex", "nvidia-apex"}


@pytest.mark.parametrize("limit", [320])
def test_no_file_is_two_rooms(root, limit):
    long = {str(p): n for p in sources(root) if (n := len(p.read_text().splitlines())) > limit}
    assert not long


def test_every_module_says_what_it_is(root):
    bare = [str(p) for p in sources(root) if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not bare
