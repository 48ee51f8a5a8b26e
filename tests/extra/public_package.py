"""Modules of the public terratorch package without all that the packages above them import."""

import importlib.util
import sys
import types
from pathlib import Path


def open_terratorch(*parts: str) -> None:
    """Make the modules below `terratorch.<parts>` importable by themselves.

    torchvision gets an empty stand-in, of which they use nothing: the real one does not go with a torch that
    was built for the CPU only.
    """
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
