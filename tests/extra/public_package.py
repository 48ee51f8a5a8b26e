"""Public packages without what they import and do not need here.

torchvision's builds have to match torch's to the build, and the one on PyPI does not go with a torch that was
built for the CPU only: stand-ins answer to its names.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of torchvision, and nothing in any of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def open_timm() -> Any:
    """The package timm, which reads no image here."""
    sys.meta_path.insert(0, Absent())
    return importlib.import_module("timm")


def open_terratorch(*parts: str) -> None:
    """Make the modules below `terratorch.<parts>` importable without all that the packages above import."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = types.ModuleType(name)
    spec = importlib.util.find_spec("terratorch")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    names = ("terratorch", *parts)
    for depth in range(1, len(names) + 1):
        package = types.ModuleType(".".join(names[:depth]))
        package.__path__ = [str(root.joinpath(*names[1:depth]))]
        sys.modules[package.__name__] = package
