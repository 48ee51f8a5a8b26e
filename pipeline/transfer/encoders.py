"""The models of this project as backbones: encoders of pixels and codes, and late fusion.

A modality that a model takes only as tokens goes through its stage-1 tokenizer, which stays frozen:
codes carry no gradient.

Shapes: B batch, N tokens, D width, h w grid of features.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import yaml
from torch import Tensor, nn

from configs.schema.transfer import MergeType
from pipeline.engine.errors import RunError
from pipeline.evaluate.subject import Subject
from pipeline.fusion import artifact as of_fusion
from pipeline.fusion.model import LateFusion
from pipeline.layers.positions import grid_centres
from pipeline.layers.standardise import Standardise
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.stage1.artifact import ImageTokenizer, tokenizer_folder
from pipeline.stage2 import artifact as of_stage2
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.transfer.backbone import Backbone, Images, Intake, Known


class Codes:
    """Images -> codes of a model's token streams, by the tokenizers that its tokens were made with."""

    def __init__(self, layout: Layout, run: Path, device: torch.device):
        shards = _shards_of(run)
        self._tokenizers: dict[str, ImageTokenizer] = {}
        self._standardise: dict[str, Standardise] = {}
        for stream in map(layout.streams.__getitem__, layout.inputs):
            info = layout.token_info.get(stream.modality)
            if stream.kind != "map" or info is None or info["kind"] != "image":
                continue
            found = ImageTokenizer.from_pretrained(tokenizer_folder(info, shards), device)
            assert found.statistics is not None
            self._tokenizers[stream.part] = found
            row = found.modality
            self._standardise[stream.part] = Standardise(*found.statistics, row.nodata).to(device)

    def intakes(self) -> dict[str, Intake]:
        found = {}
        for name, tokenizer in self._tokenizers.items():
            row, statistics = tokenizer.modality, tokenizer.statistics
            assert statistics is not None
            assert row.gsd_m is not None
            found[name] = Intake(row.bands, *statistics, row.gsd_m, tokenizer.model.patch)
        return found

    @torch.no_grad()
    def __call__(self, name: str, image: Tensor, present: Tensor) -> Tensor:
        """[B, C, H, W] -> codes [B, N], -1 for samples without."""
        codes = self._tokenizers[name].model.tokenize(self._standardise[name](image))
        return codes.masked_fill(~present[:, None], -1)


class EncoderBackbone(Backbone):
    """The encoder of a stage-2 model; that of a MultiMAE is called alike.

    Modalities on several dates are inputs of their own, by the names that shards give them; their days
    are not told.
    """

    def __init__(
        self,
        kind: str,
        encoder: Encoder | MultiMAEEncoder,
        depth: int,
        pixels: Mapping[str, Intake],
        codes: Codes | None = None,
        window_m: float | None = None,
    ):
        super().__init__()
        self.kind, self.encoder, self.depth = kind, encoder, depth
        self.width, self.window_m = encoder.config.width, window_m
        self._codes = codes
        self._as_codes = codes.intakes() if codes else {}
        self.intakes = {**self._as_codes, **pixels}
        self._merge: MergeType = "mean"

    def expect(self, names: Sequence[str], merge: MergeType) -> None:
        self._merge, self.width = merge, self.encoder.config.width
        self.encoder.expected = ()
        if merge == "concat":
            # In an order of its own: channels do not depend on how a task lists its inputs.
            self.encoder.expected = self._streams([n for n in self.intakes if n in names])
            self.width *= len(self.encoder.expected)

    def _streams(self, names: Sequence[str]) -> tuple[str, ...]:
        """What `concat` has channels for."""
        encoder = cast(Encoder, self.encoder)
        return tuple(encoder.stream(name)[1].name for name in names)

    def forward(
        self,
        images: Images,
        present: Mapping[str, Tensor],
        layers: Sequence[int],
        known: Known | None = None,
    ) -> list[Tensor]:
        given = {}
        for name, image in images.items():
            if name in self._as_codes:
                assert self._codes is not None
                given[name] = self._codes(name, image, present[name])
            else:
                given[name] = image
        features = self.encoder(given, layers, self._merge, present)
        return as_maps(features, self.grid(images))

    def level(self, parameter: str) -> int:
        part, _, rest = parameter.removeprefix("encoder.").partition(".")
        if part == "encoder":
            return int(rest.partition(".")[0]) + 1
        return self.depth + 1 if part == "encoder_norm" else 0


class FusionBackbone(Backbone):
    """Late fusion: what all streams say together around each place of its tokenizers' grid.

    Layers are the combined vectors and what each of its last MLPs makes of them.
    """

    kind = "fusion"

    def __init__(self, model: LateFusion, codes: Codes):
        super().__init__()
        self.model, self._codes = model, codes
        self.intakes = codes.intakes()
        self.width, self.depth = model.masked.width, len(model.mlps) + 1
        self.window_m = model.layout.window_m

    def forward(
        self,
        images: Images,
        present: Mapping[str, Tensor],
        layers: Sequence[int],
        known: Known | None = None,
    ) -> list[Tensor]:
        batch = self._batch(images, present)
        h, w = self.grid(images)
        b, patch_m = len(batch["in_code"]), self.window_m or 0.0
        centres = grid_centres(h, w, patch_m / h).to(batch["in_code"].device)
        query = self.model.stream_embed.weight.new_zeros(b, h * w, self.width)
        x = self.model.fuse(batch, centres.expand(b, -1, -1), query)
        found = [x]
        for mlp in self.model.mlps:
            x = mlp(x)
            found.append(x)
        found[-1] = self.model.norm(x)
        return [found[i].transpose(1, 2).unflatten(2, (h, w)) for i in layers]

    def level(self, parameter: str) -> int:
        part, _, rest = parameter.removeprefix("model.").partition(".")
        if part == "mlps":
            return int(rest.partition(".")[0]) + 2
        if part in ("merge", "merge_norm", "combine"):
            return 1
        return self.depth + 1 if part == "norm" else 0

    def _batch(self, images: Images, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens as late fusion reads them: their codes, places and streams; -1 where there is none."""
        layout = self.model.layout
        codes, where, streams = [], [], []
        for i in layout.inputs:
            s = layout.streams[i]
            if s.kind != "map" or s.part not in images:
                continue
            found = self._codes(s.part, images[s.part], present[s.part])
            there = found >= 0
            codes.append(torch.where(there, found + s.vocab_offset, 0))
            places = torch.arange(found.shape[1], device=found.device) + s.position_offset
            where.append(places.expand_as(found))
            streams.append(torch.where(there, i, -1))
        parts = {"in_code": codes, "in_where": where, "in_stream": streams}
        return {name: torch.cat(part, 1) for name, part in parts.items()}


def open_encoder(run: Path, folder: Path, device: torch.device, seed: int | None) -> Backbone:
    """A stage-2 model; with `seed` its twin with fresh weights."""
    encoder, (layout, config, normalisers) = (
        Encoder.from_pretrained(folder),
        of_stage2.describe(folder),
    )
    if seed is not None:
        refresh(encoder, seed, lambda: MaskedTransformer(layout, config))
    pixels = {}
    for s in map(layout.streams.__getitem__, layout.pixels):
        statistics = normalisers[s.modality].statistics
        pixels[s.part] = Intake(
            encoder.bands(s.modality), *statistics, s.patch_m / s.patch_px, s.patch_px
        )
    # Pixels are the better input where a model takes both: no tokenizer stands before them.
    codes = None if pixels else Codes(layout, run, device)
    window_m = layout.window_m if codes else None
    depth = config.encoder_depth
    return EncoderBackbone("stage2", encoder, depth, pixels, codes, window_m).to(device)


def open_fusion(run: Path, folder: Path, device: torch.device, seed: int | None) -> Backbone:
    """A late-fusion model; with `seed` its twin with fresh weights over the same frozen latents."""
    model = of_fusion.load(folder, device)
    if seed is not None:
        model = cast(LateFusion, Subject("fusion", model, {}).untrained(seed).model)
    return FusionBackbone(model, Codes(model.layout, run, device)).to(device)


def as_maps(features: Sequence[object], grid: tuple[int, int]) -> list[Tensor]:
    """[B, N, D] of each layer -> [B, D, h, w]."""
    return [cast(Tensor, f).transpose(1, 2).unflatten(2, grid) for f in features]


def refresh(encoder: nn.Module, seed: int, make: Callable[[], nn.Module]) -> None:
    """Fresh weights, as the whole model starts with them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        fresh = make().state_dict()
    encoder.load_state_dict({name: fresh[name] for name in encoder.state_dict()})


def _shards_of(run: Path) -> Path:
    """The shard set that a run was trained on, beside which its tokenizers are told."""
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(
            f"{path} is missing: a model of tokens needs its tokenizers, and only its run says where "
            "they are; write backbone=RUN with the folder of the run"
        )
    return Path(yaml.safe_load(path.read_text())["data"]["shards"])
