"""The encoder as one ONNX graph for a fixed set of modalities; only the batch may vary in size.

Shapes: B batch, C bands, H W pixels, N tokens, D width.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from configs import ConfigError
from pipeline.layers.merge import Merge
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.streams import Stream


class LastLayer(nn.Module):
    """Inputs by position -> features of the last layer, one tensor per modality or the merged one."""

    def __init__(self, encoder: Encoder, names: tuple[str, ...], merge: Merge):
        super().__init__()
        self.encoder, self.names, self.merge = encoder, names, merge

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        (found,) = self.encoder(given, [-1], self.merge)
        return tuple(found[n] for n in self.names) if isinstance(found, dict) else (found,)


def write_onnx(encoder: Encoder, names: tuple[str, ...], path: Path, merge: Merge = "none") -> str:
    """Write the graph; gives its inputs and outputs in words.

    Inputs are named as the modalities: images [B, C, H, W] in physical units, of the size of training,
    or codes int64 [B, N]. Outputs are `features` [B, N', D], or `features/<modality>` [B, N, D] without
    a merge. Raises ConfigError when the exporter is not installed.
    """
    missing = [n for n in ("onnx", "onnxscript") if find_spec(n) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: pip install '.[onnx]'")
    examples = tuple(_example(encoder.stream(name)[1]) for name in names)
    outputs = ["features"] if merge != "none" else [f"features/{name}" for name in names]
    batch = torch.export.Dim("batch", min=1)
    graph = LastLayer(encoder.eval(), names, merge)
    with warnings.catch_warnings():
        # torch warns about its own insides while it traces.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            examples,
            str(path),
            input_names=list(names),
            output_names=outputs,
            dynamic_shapes=(tuple({0: batch} for _ in names),),
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    return f"{path}: {', '.join(names)} -> {', '.join(outputs)}"


def _example(stream: Stream) -> Tensor:
    """An input of the size of training, of two samples: one would be taken for a constant."""
    if stream.kind == "pixels":
        assert stream.grid is not None
        height, width = (n * stream.patch_px for n in stream.grid)
        return torch.zeros(2, stream.num_bands, height, width)
    return torch.zeros(2, stream.num_positions, dtype=torch.int64)
