"""A model and a micro-batch on the meta device: shapes and types, no memory, no computation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.registry import BandStatistics, modality, modality_registry
from configs.schema import (
    FusionRunConfig,
    MaskedConfig,
    MaskedRunConfig,
    Modality,
    MultiMAERunConfig,
    RunConfig,
    Stage1Config,
)
from pipeline.data.loader import Batch
from pipeline.data.pixels import valid_name
from pipeline.data.selection import select
from pipeline.fusion.latents import latent_widths
from pipeline.fusion.model import LateFusion
from pipeline.inspection.assumed import WINDOW_M, AssumedData
from pipeline.layers.dates import NUM_FEATURES
from pipeline.multimae.groups import GroupTable, build_groups
from pipeline.multimae.model import MultiMAE
from pipeline.stage1.tokenizer import Teaching, Tokenizer
from pipeline.stage2.layout import Layout, build_layout
from pipeline.stage2.model import MaskedTransformer
from shards import SampleSet, open_data


@dataclass(frozen=True)
class Example:
    """`num_samples` is None where there is no data; then `assumed` says what was taken for granted.

    `critic` is what trains beside the model in an engine of its own, on what the model hands it.
    """

    model: nn.Module
    batch: Batch
    tokens_per_sample: int
    num_samples: int | None
    assumed: str = ""
    critic: nn.Module | None = None


def build_example(config: RunConfig, micro_batch: int) -> Example:
    """Model and batch of `micro_batch` samples.

    Raises ConfigError for a text modality, whose vocabulary no rank trains, and for configurations
    that fit no model.
    """
    data = _open(config)
    if isinstance(config, Stage1Config):
        return _tokenizer(config, data, micro_batch)
    if isinstance(config, MultiMAERunConfig):
        return _multimae(config, data, micro_batch)
    assert isinstance(config, MaskedRunConfig)
    return _masked(config, data, micro_batch)


def _open(config: RunConfig) -> SampleSet | None:
    shards = config.data.shards
    absent = isinstance(shards, Path) and not shards.exists()
    return None if absent else open_data(config.data, verify=False)


def _tokenizer(config: Stage1Config, data: SampleSet | None, micro_batch: int) -> Example:
    name = config.modality
    row = (data.modalities if data else {}).get(name) or modality(name)
    if row.kind not in ("image", "classes") or row.gsd_m is None:
        raise ConfigError(
            f"{name} is a {row.kind} modality: its tokens need no training on GPUs, nothing to inspect"
        )
    size = config.tokenizer.crop_px or row.pixels(WINDOW_M)
    assumed = "" if config.tokenizer.crop_px else f"windows of {size} px"
    indices = None
    if data is not None:
        indices = select(data, config.data, config.data.split, [name])
        if not config.tokenizer.crop_px and len(indices):
            part = data.read(int(indices[0]), [name])[name]
            size, assumed = min(part.shape[1:]), ""  # type: ignore[union-attr]
    with torch.device("meta"):
        model = Tokenizer(row, config.tokenizer, size, _teaching(config, row, size))
        kind = torch.uint8 if model.is_classes else torch.float32
        batch = {
            "x": torch.empty(micro_batch, row.num_bands, size, size, dtype=kind),
            "valid": torch.empty(micro_batch, size, size, dtype=torch.bool),
            "seed": torch.empty(micro_batch, dtype=torch.int64),
        }
    tokens = model.grid[0] * model.grid[1]
    num_samples = None if indices is None else len(indices)
    return Example(model, batch, tokens, num_samples, assumed, model.critic)


def _teaching(config: Stage1Config, row: Modality, size: int) -> Teaching:
    """What the loss is made of; its perceptual network is taken to be of the same shape."""
    statistics = BandStatistics((0.0,) * row.num_bands, (1.0,) * row.num_bands)
    asks = config.tokenizer.loss.perceptual > 0
    network = Tokenizer(row, config.tokenizer, size).encoder if asks else None
    return Teaching(statistics, config.engine.global_batch, network)


def _masked(config: MaskedRunConfig, data: SampleSet | None, micro_batch: int) -> Example:
    masked = config.masked
    if data is None:
        names = masked.on_dates((*masked.pixels, *masked.tokens, *masked.targets))
        layout = build_layout(masked, AssumedData(config.data, names, masked.patch_px))
        assumed = f"windows of {layout.window_m:g} m, default vocabularies"
        num_samples = None
    else:
        layout, assumed = build_layout(masked, data), ""
        num_samples = len(select(data, config.data, config.data.split))
    shards = None if data is None else Path(data.path)
    widths = latent_widths(layout, shards) if isinstance(config, FusionRunConfig) else {}
    with torch.device("meta"):
        if isinstance(config, FusionRunConfig):
            model = LateFusion(layout, masked, config.fusion, widths)
        else:
            model = MaskedTransformer(layout, masked)
        batch = masked_batch(layout, masked, micro_batch)
    tokens = masked.num_input_tokens + masked.num_target_tokens
    return Example(model, batch, tokens, num_samples, assumed)


def masked_batch(layout: Layout, config: MaskedConfig, b: int) -> Batch:
    """A full batch, its tokens shared out evenly: an upper bound of what masking draws."""
    n, k = config.num_input_tokens, config.num_target_tokens

    def codes(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.int64)

    batch = {name: codes(b, n) for name in ("in_where", "in_stream", "in_code")}
    batch |= {name: codes(b, k) for name in ("out_where", "out_stream", "out_code")}
    if layout.has_days:
        batch["in_date"] = torch.empty(b, n, NUM_FEATURES)
        batch["out_date"] = torch.empty(b, k, NUM_FEATURES)
    for i in layout.pixels:
        stream, count = layout.streams[i], b * (n // len(layout.inputs))
        batch[f"patch/{stream.name}"] = torch.empty(count, stream.patch_values)
        batch[f"slot/{stream.name}"] = codes(count)
    for number, i in enumerate(layout.targets):
        name = layout.streams[i].name
        count = b * k // len(layout.targets) + (number < b * k % len(layout.targets))
        batch[f"goal/{name}"], batch[f"goal_slot/{name}"] = codes(count), codes(count)
        batch[f"goal_weight/{name}"] = torch.empty(count)
    return batch


def _multimae(config: MultiMAERunConfig, data: SampleSet | None, micro_batch: int) -> Example:
    rows = data.modalities if data else modality_registry()
    table = build_groups(config.multimae, rows, config.data.shards)
    with torch.device("meta"):
        model = MultiMAE(table, config.multimae)
        batch = multimae_batch(table, rows, config.multimae.num_visible, micro_batch)
    num_samples = len(select(data, config.data, config.data.split)) if data else None
    return Example(model, batch, table.num_places, num_samples)


def multimae_batch(table: GroupTable, rows: Mapping[str, Modality], n: int, b: int) -> Batch:
    """A batch of samples that have everything, their visible patches shared out evenly."""
    batch: Batch = {"where": torch.empty(b, n, dtype=torch.int64)}
    for name in table.modalities:
        side = next(g.side_px for g in table.groups if g.modality == name)
        kind = torch.float32 if rows[name].kind == "image" else torch.uint8
        batch[name] = torch.empty(b, rows[name].num_bands, side, side, dtype=kind)
        batch[valid_name(name)] = torch.empty(b, side, side, dtype=torch.bool)
    for number, group in enumerate(table.groups):
        count = b * n // len(table.groups) + (number < b * n % len(table.groups))
        batch[f"hidden/{group.name}"] = torch.empty(b, group.num_places, dtype=torch.bool)
        batch[f"rows/{group.name}"] = torch.empty(b, dtype=torch.int64)
        for key in ("seen", "slot", "query"):
            batch[f"{key}/{group.name}"] = torch.empty(count, dtype=torch.int64)
    return batch
