"""State of which every rank holds all: who writes what, and the optimizer's part of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.base import Piece, Scalars


def share(pieces: list[Piece], rank: int, size: int) -> list[Piece]:
    """This rank's pieces to write: about as many bytes on every rank, none twice."""
    total = sum(p.tensor.numel() for p in pieces) or 1
    mine, before = [], 0
    for piece in pieces:
        middle = before + piece.tensor.numel() / 2
        # An empty tensor at the very end has its middle there.
        if min(size - 1, int(middle * size / total)) == rank:
            mine.append(piece)
        before += piece.tensor.numel()
    return mine


def model_pieces(model: nn.Module, *, trained: bool) -> Iterator[Piece]:
    """Buffers and frozen weights of a model; with `trained` all its weights."""
    saved = model.state_dict().keys()
    for name, parameter in model.named_parameters():
        if trained or not parameter.requires_grad:
            yield whole(f"weights/{name}", parameter.data)
    for name, buffer in model.named_buffers():
        if name in saved:
            yield whole(f"buffers/{name}", buffer)


def whole(name: str, tensor: Tensor) -> Piece:
    """A named tensor as one piece. It has to lie in one stretch of memory, since it is written into."""
    return Piece(name, tuple(tensor.shape), 0, tensor.detach().view(-1))


def state_tensors(state: Mapping[str, Any], like: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an optimizer's state that go with the elements of a parameter."""
    for key in sorted(state):
        value = state[key]
        if isinstance(value, Tensor) and value.shape == like.shape and key != "step":
            yield key, value


def state_scalars(optimizer: torch.optim.Optimizer, masters: list[Tensor]) -> Scalars:
    """The other entries, one set for all parameters with the same tensors, and those of groups.

    Every update touches all parameters, so their counters agree.
    """
    found: Scalars = {}
    for master in masters:
        state = optimizer.state.get(master, {})
        tensors = dict(state_tensors(state, master))
        numbers = {k: v for k, v in state.items() if not isinstance(v, Tensor) or v.numel() == 1}
        rest = {k: _plain(v, master) for k, v in numbers.items() if k not in tensors}
        found["|".join(sorted(tensors))] = rest
    counters = [group["step"] for group in optimizer.param_groups if "step" in group]
    if counters:
        found["group"] = {"step": int(counters[0])}
    return found


def allocate_state(
    optimizer: torch.optim.Optimizer,
    master: Tensor,
    kinds: set[str],
    scalars: Scalars,
    room: Callable[[str], Tensor] | None = None,
) -> None:
    """An optimizer's state for one parameter, as its first update would have made it.

    Without any kinds there is none, as before that update. `room` makes the tensor of a kind where it
    is not of the parameter's shape.
    """
    for group in optimizer.param_groups:
        # A run that goes back to its very first commit has counted steps already.
        group.pop("step", None)
        group.update(scalars.get("group", {}))
    if not kinds:
        optimizer.state.pop(master, None)
        return
    state = optimizer.state[master]
    for kind in {k for k, _ in state_tensors(state, master)} - kinds:
        del state[kind]
    for kind in sorted(kinds - state.keys()):
        state[kind] = room(kind) if room else torch.zeros_like(master, requires_grad=False)
    kinds = {k for k, _ in state_tensors(state, master)}
    for key, value in scalars.get("|".join(sorted(kinds)), {}).items():
        state[key] = _live(value, master)


def _plain(value: Any, master: Tensor) -> dict[str, Any]:
    if isinstance(value, Tensor):
        on_device = value.device == master.device
        return {"tensor": float(value), "on_device": on_device}
    return {"number": value}


def _live(value: Mapping[str, Any], master: Tensor) -> Any:
    if "tensor" not in value:
        return value["number"]
    device = master.device if value["on_device"] else torch.device("cpu")
    return torch.tensor(value["tensor"], dtype=torch.float32, device=device)
