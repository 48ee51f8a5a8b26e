"""Continual pretraining: a new run starts from a trained or imported model.

The transformer itself is taken whole. Streams are taken one by one, by name: those that the artifact has
in the same form go on, others start fresh (a modality that is added, or tokens of another tokenizer).
Dates of a modality share all that is learned of it, so that one may go on with more or fewer of them; what
days mean starts fresh where the artifact was not told them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs import ConfigError
from configs.schema import MaskedConfig, Modality
from configs.schema.transformer import TransformerConfig
from pipeline.data.transforms import Normaliser
from pipeline.layers.positions import grid_positions, resized_positions, sincos
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.streams import Stream

_PER_STREAM = (
    "code_embed.", "target_embed.", "stream_embed.", "positions.", "patch_proj.", "log_variance"
)  # fmt: skip


@dataclass(frozen=True)
class WarmStart:
    """What a new run takes from an artifact.

    `taken` are the names of the streams that go on; `fresh` maps those that start anew to the reason;
    `left` are streams of the artifact that the run does without.
    """

    folder: Path
    about: artifact.Described
    taken: tuple[str, ...]
    fresh: dict[str, str]
    left: tuple[str, ...]

    @property
    def normalisers(self) -> dict[str, Normaliser]:
        """Of the pixel streams that go on: weights are only right with the statistics they know."""
        names = {n.removesuffix("@px") for n in self.taken if n.endswith("@px")}
        return {n: v for n, v in self.about.normalisers.items() if n in names}

    def __str__(self) -> str:
        lines = [f"from {self.folder}: {', '.join(self.taken) or 'no stream'} go on"]
        lines += [f"new: {name} ({why})" for name, why in self.fresh.items()]
        if self.left:
            lines.append(f"left behind: {', '.join(self.left)}")
        return "; ".join(lines)


def plan_start(
    path: Path, layout: Layout, config: MaskedConfig, rows: dict[str, Modality]
) -> WarmStart:
    """Compare a run with the model it starts from; `rows` are the modalities of its data.

    Raises RunError without a model there, ConfigError when the transformer has another shape.
    """
    folder = artifact.find(path)
    about = artifact.describe(folder)
    mine, theirs = (
        c.model_dump(include=set(TransformerConfig.model_fields) - {"shape", "norm_bias"})
        | {"norm_bias": c.bias if c.norm_bias is None else c.norm_bias}
        for c in (config, about.config)
    )
    if wrong := [f"masked.{k}={_written(v)}" for k, v in theirs.items() if mine[k] != v]:
        raise ConfigError(f"the model in {folder} is another one; write {' '.join(wrong)}")
    held = {s.name: s for s in about.layout.forms}
    fresh = {}
    for stream in layout.forms:
        if why := _difference(stream, held.get(stream.name), layout, about, rows):
            fresh[stream.name] = why
    names = [s.name for s in layout.forms]
    taken = tuple(n for n in names if n not in fresh)
    return WarmStart(folder, about, taken, fresh, tuple(n for n in held if n not in names))


@torch.no_grad()
def warm_start(model: MaskedTransformer, start: WarmStart) -> None:
    """Give a fresh model what it takes from an artifact. Raises RunError for a damaged one."""
    old, new = start.about.layout, model.layout
    state = model.state_dict()
    patches = [k for k in state if _patches_of(k) in start.taken]
    whole = [k for k in state if not k.startswith(_PER_STREAM)] + patches
    if not old.has_days:
        whole = [k for k in whole if not k.startswith("date_embed.")]
    rows = [k for k in ("stream_embed.weight", "log_variance") if k in state]
    if not start.about.config.uncertainty:
        rows = rows[:1]
    others = [k for k in state if k.startswith(("code_embed.", "target_embed.", "positions."))]
    weights = artifact.read_weights(start.folder, [*whole, *rows, *others])
    for name in whole:
        state[name].copy_(weights[name])
    for name in start.taken:
        i, j = new.index(name), old.index(name)
        for key in rows:
            state[key][new.form_of[i]] = weights[key][old.form_of[j]]
        for key in _tables_trained(old.streams[j], model.config):
            state[key][new.streams[i].codes] = weights[key][old.streams[j].codes]
    if "positions.table" in state:
        table = weights["positions.table"]
        found = [_positions(stream, old, table) for stream in new.forms]
        state["positions.table"].copy_(torch.cat(found))


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _difference(
    stream: Stream,
    held: Stream | None,
    layout: Layout,
    about: artifact.Described,
    rows: dict[str, Modality],
) -> str:
    """Why a stream cannot go on; empty where it can."""
    if held is None:
        return "not in the artifact"
    if stream.kind == "pixels":
        before, now = about.normalisers[stream.modality].modality, rows[stream.modality]
        if before.bands != now.bands:
            return f"bands were {', '.join(before.bands)}"
        if stream.patch_px != held.patch_px:
            return f"patches were {held.patch_px} px"
        return ""
    if stream.kind != held.kind or stream.vocab_size != held.vocab_size:
        return f"was a {held.kind} of {held.vocab_size} codes"
    before, now = (
        x.token_info.get(stream.modality, {}).get("tokenizer") for x in (about.layout, layout)
    )
    # An imported model does not know whose tokens it was trained on.
    return "made by another tokenizer" if before and before != now else ""


def _patches_of(key: str) -> str:
    """The stream whose patches a parameter projects; empty for other parameters."""
    return f"{key.split('.')[1]}@px" if key.startswith("patch_proj.") else ""


def _tables_trained(stream: Stream, config: MaskedConfig) -> list[str]:
    """The tables of codes in which a stream's rows mean something."""
    if config.embeddings == "house":
        return ["code_embed.weight"] if stream.vocab_size else []
    sides = {"code_embed.weight": stream.is_input, "target_embed.weight": stream.is_target}
    return [key for key, used in sides.items() if used and stream.vocab_size]


def _positions(stream: Stream, old: Layout, table: Tensor) -> Tensor:
    """A stream's positions as the artifact has them; where it has not, as it has those of others.

    Grids are interpolated to each other. Sequences go on with sines and cosines where the table ends.
    """
    alike = [s for s in old.streams if (s.grid is None) == (stream.grid is None)]
    alike.sort(key=lambda s: (s.name != stream.name, -s.num_positions))
    held = [table[s.places] for s in alike[:1]]
    if stream.grid is not None:
        source = alike[0].grid if alike else None
        if source is None:
            return grid_positions(*stream.grid, stream.patch_m, table.shape[1])
        return resized_positions(held[0], source, stream.grid)
    places = sincos(torch.arange(stream.num_positions), table.shape[1])
    for rows in held:
        places[: len(rows)] = rows[: len(places)]
    return places
