"""TerraMind and 4M models as ours: their weights under our names, and the streams that they know.

Shapes, and which parts there are, come from the weights. What weights cannot tell is as in the published
code (terratorch 1.2, ml-4m): 64 channels per head, norms with an epsilon of 1e-6, and how many tokens a
text may have. Blocks have the same names there as here.

Shapes: D width, C bands, p patch, N positions, V codes.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from configs.registry import modality
from configs.schema import MaskedConfig
from pipeline.data.views import Views
from pipeline.engine.errors import RunError
from pipeline.engine.foreign import ImportReport
from pipeline.stage2.foreign_streams import EMBEDDING, Source, read_sources, window_of
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer

HEAD_WIDTH = 64
NORM_EPS = 1e-6

_PARTS = re.compile(r"(encoder|decoder)\.\d+\.|(encoder|decoder)_norm\.|context_proj\.")
_OTHER_NAMES = (
    ("context_proj.", "decoder_proj_context."),
    ("attn.norm.q.", "attn.q_norm."),
    ("attn.norm.k.", "attn.k_norm."),
)


class Imported(NamedTuple):
    """Configuration, streams, weights under our names (float32), and how they came about."""

    config: MaskedConfig
    layout: Layout
    weights: dict[str, Tensor]
    report: ImportReport


class Account:
    """The tensors of theirs, and what each is used for."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.state = {k: v.float() for k, v in state.items()}
        self.loaded: dict[str, str] = {}
        self.computed: list[str] = []
        self.missing: list[str] = []

    def take(self, theirs: str, ours: str) -> Tensor | None:
        """A tensor for a place of ours; None, and noted, when there is none."""
        if theirs not in self.state:
            self.missing.append(theirs)
            return None
        self.loaded[theirs] = ours
        return self.state[theirs]

    def same(self, theirs: str, expected: Tensor, why: str) -> None:
        """Note a tensor that ours does without. Raises RunError when it says something else."""
        found = self.state.get(theirs)
        if found is None:
            return
        if found.shape != expected.shape or not torch.equal(found, expected):
            raise RunError(f"{theirs} is not {why}: this model cannot be imported")
        self.computed.append(theirs)

    def report(self) -> ImportReport:
        known = self.loaded.keys() | set(self.computed)
        unexpected = tuple(k for k in self.state if k not in known)
        return ImportReport(self.loaded, tuple(self.computed), tuple(self.missing), unexpected)


def import_model(
    state: Mapping[str, Tensor],
    window_m: float | None = None,
    renamed: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> Imported:
    """A published state dict -> configuration, streams and weights of our `MaskedTransformer`.

    Args:
        state: of a whole model, encoder and decoder.
        window_m: side of the windows; by default what the pixel patches cover at the registry's
            resolution, or 2240 m.
        renamed: modality of the registry by their name, where that does not tell.
        without: names of theirs to leave out.

    Raises:
        RunError: with the report, when a tensor is missing or has no place; for modalities that the
            registry does not know, naming all of them; for tables that differ where ours are one.
    """
    state = {k: v for k, v in state.items() if not _belongs(k, without)}
    sources = read_sources(state, window_m, renamed or {})
    streams = tuple(s.stream for s in sources)
    window = window_of(streams) if window_m is None else window_m
    info = {
        s.modality: {
            "modality": s.modality,
            "kind": modality(s.modality).kind,
            "views": Views().to_dict(),
            "grid": s.grid,
            "window_m": window if s.grid else None,
            "num_tokens": s.num_positions,
            "vocab_size": s.vocab_size,
            "tokenizer": None,
            "artifact": None,
        }
        for s in streams
        if s.vocab_size
    }
    layout = Layout(streams, window, Views(), info)
    account = Account(state)
    config = _config(account.state, layout)
    weights = _trunk(account, config, layout) | _embeddings(account, config, sources)
    report = account.report()
    if report.missing or report.unexpected:
        raise RunError(f"this is no model of TerraMind or 4M as published: {report}")
    return Imported(config, layout, weights, report)


def _belongs(key: str, names: tuple[str, ...]) -> bool:
    found = EMBEDDING.fullmatch(key)
    return found is not None and found[2] in names


def _config(state: Mapping[str, Tensor], layout: Layout) -> MaskedConfig:
    for key in ("mask_token", "encoder.0.mlp.fc1.weight", "decoder.0.mlp.fc1.weight"):
        if key not in state:
            raise RunError(
                f"this is no whole model of TerraMind or 4M, encoder and decoder: it has no {key}"
            )
    hidden, width = state["encoder.0.mlp.fc1.weight"].shape
    gated = "encoder.0.mlp.fc3.weight" in state
    # A gated MLP is 2/3 as wide, rounded down.
    ratio = (hidden + 0.5) * 1.5 / width if gated else hidden / width
    qk_norm = state.get("encoder.0.attn.q_norm.weight")
    registers = state.get("register_tokens")
    norm_biases = [v for k, v in state.items() if _is_norm_bias(k)]
    names = {
        "pixels": [s.modality for s in layout.streams if s.kind == "pixels"],
        "tokens": [s.modality for s in layout.streams if s.vocab_size and s.is_input],
        "targets": [s.modality for s in layout.streams if s.is_target],
    }
    return MaskedConfig.model_validate(
        {
            **names,
            "patch_px": {s.modality: s.patch_px for s in layout.streams if s.patch_px},
            "width": width,
            "encoder_depth": _count(state, "encoder."),
            "decoder_depth": _count(state, "decoder."),
            "heads": width // (HEAD_WIDTH if qk_norm is None else len(qk_norm)),
            "mlp_ratio": 4.0 if gated and hidden == int(width * 8 / 3) else ratio,
            "mlp": "swiglu" if gated else "gelu",
            "bias": "encoder.0.attn.qkv.bias" in state,
            # Where norms have no bias, theirs keep zeros in a buffer.
            "norm_bias": any(bool(v.any()) for v in norm_biases),
            "norm_eps": NORM_EPS,
            "qk_norm": qk_norm is not None,
            "num_registers": 0 if registers is None else registers.shape[1],
            "embeddings": "4m",
        }
    )


def _count(state: Mapping[str, Tensor], stem: str) -> int:
    """How many numbered modules there are below a name."""
    return len({k[len(stem) :].split(".")[0] for k in state if k.startswith(stem)})


def _is_norm_bias(key: str) -> bool:
    return re.search(r"norm\d?\.bias$", key) is not None


def _trunk(account: Account, config: MaskedConfig, layout: Layout) -> dict[str, Tensor]:
    """Blocks, norms, and what is learned but belongs to no stream."""
    with torch.device("meta"):
        names = MaskedTransformer(layout, config).state_dict().keys()
    weights = {}
    for ours in names:
        if _PARTS.match(ours):
            weights[ours] = account.take(_their_name(ours), ours)
    mask = account.take("mask_token", "mask_embed")
    weights["mask_embed"] = None if mask is None else mask.flatten()
    if config.num_registers:
        weights["registers"] = account.state["register_tokens"][0]
        account.loaded["register_tokens"] = "registers"
    for key, value in account.state.items():
        if _is_norm_bias(key) and key not in account.loaded:
            account.same(key, torch.zeros_like(value), "zero, as in a norm without bias")
    return {k: v for k, v in weights.items() if v is not None}


def _their_name(ours: str) -> str:
    for own, theirs in _OTHER_NAMES:
        ours = ours.replace(own, theirs)
    return ours


def _embeddings(account: Account, config: MaskedConfig, sources: list[Source]) -> dict[str, Tensor]:
    """Tables of codes on both sides, of positions and of streams, and projections of patches."""
    weights: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {
        "code_embed.weight": [],
        "target_embed.weight": [],
        "stream_embed.weight": [],
        "positions.table": [],
    }
    for source in sources:
        s = source.stream
        own = source.name("encoder" if s.is_input else "decoder")
        learned = account.take(f"{own}.mod_emb", "stream_embed.weight")
        places = account.take(f"{own}.pos_emb", "positions.table")
        if learned is not None:
            rows["stream_embed.weight"].append(learned.flatten())
        if places is not None:
            rows["positions.table"].append(places[0, : s.num_positions])
        if s.is_input and s.is_target and learned is not None and places is not None:
            other, why = source.name("decoder"), "what the encoder has"
            account.same(f"{other}.mod_emb", learned, why)
            account.same(f"{other}.pos_emb", places, why)
        if s.kind == "pixels":
            ours = f"patch_proj.{s.modality}.weight"
            if (patches := account.take(f"{own}.proj.weight", ours)) is not None:
                weights[ours] = patches
            continue
        # Codes that never enter on a side have rows there that nothing reads.
        nothing = torch.zeros(s.vocab_size, config.width)
        for table, side, used in (
            ("code_embed.weight", "encoder", s.is_input),
            ("target_embed.weight", "decoder", s.is_target),
        ):
            name = f"{source.name(side)}.token_emb.weight"
            codes = account.take(name, table) if used else nothing
            if codes is not None:
                rows[table].append(codes)
            if codes is not None and side == "decoder" and used:
                head = f"{source.name(side)}.to_logits.weight"
                account.same(head, codes, "the table of codes that the head is tied to")
    for name, parts in rows.items():
        if parts:
            weights[name] = torch.cat([p if p.ndim == 2 else p[None] for p in parts])
    return weights
