"""Weights that were trained elsewhere: reading them, and telling what became of every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.engine.errors import RunError


@dataclass(frozen=True)
class ImportReport:
    """What became of every tensor.

    `loaded` is from their names to ours; `computed` are tensors that our modules make themselves, and
    that were found to be what they make. `missing` were looked for and not found, `unexpected` have no
    place.
    """

    loaded: Mapping[str, str]
    computed: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded, {len(self.computed)} computed"
        lists = {"missing": self.missing, "unexpected": self.unexpected}
        return "; ".join([counts, *(f"{k}: {', '.join(v)}" for k, v in lists.items() if v)])


def read_state(path: Path, hint: str) -> dict[str, Tensor]:
    """The tensors of a file, `.safetensors` or what `torch.save` writes, on the CPU.

    A checkpoint that holds weights below `model` or `state_dict` is opened. Raises RunError when there
    is no file, with `hint`, or when it holds other things than tensors.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing; {hint}")
    if path.suffix == ".safetensors":
        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise RunError(f"{path} is no state dict: it holds other things than tensors")
    return dict(found)


def fill(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Give a module all of its weights. Raises RunError naming all that does not fit, before any change.

    `what` says in the error whose weights do not fit what.
    """
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in weights.items()}
    problems = [f"{k} has no weights" for k in own if k not in given]
    problems += [f"{k} has no place" for k in given if k not in own]
    both = own.keys() & given.keys()
    problems += [f"{k} is {own[k]}, not {given[k]}" for k in sorted(both) if own[k] != given[k]]
    if problems:
        raise RunError(f"{what}: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=True)
