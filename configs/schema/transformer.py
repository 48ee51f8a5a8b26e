"""The shape of an encoder-decoder transformer and what its blocks are made of."""

from typing import Any, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen

_PLAIN = {"mlp": "gelu", "bias": True}
_GATED = {"mlp": "swiglu", "bias": False}


def _shape(
    width: int, encoder: int, decoder: int, heads: int, style: dict[str, Any]
) -> dict[str, Any]:
    return {
        "width": width,
        "encoder_depth": encoder,
        "decoder_depth": decoder,
        "heads": heads,
    } | style


SHAPES: dict[str, dict[str, Any]] = {
    "4m-tiny": _shape(384, 6, 6, 6, _GATED),
    "4m-small": _shape(512, 8, 8, 8, _GATED),
    "4m-base": _shape(768, 12, 12, 12, _GATED),
    "4m-large": _shape(1024, 24, 24, 16, _GATED),
    "4m-xl": _shape(2048, 24, 24, 32, _GATED),
    "terramind-tiny": _shape(192, 12, 4, 3, _PLAIN),
    "terramind-small": _shape(384, 12, 6, 6, _PLAIN),
    "terramind-base": _shape(768, 12, 12, 12, _GATED),
    "terramind-large": _shape(1024, 24, 24, 16, _GATED),
}
"""Published shapes (Mizrahi et al. 2023, table 7; Jakubik et al. 2025, and their public code)."""


class TransformerConfig(Frozen):
    """Encoder and decoder. `shape` names a published one; what is given beside it wins.

    `mlp_ratio` is the MLP's hidden width over the width; `swiglu` takes 2/3 of it, for the same cost.
    `relative_positions`, beside the fixed codes of places: `distance` lets most attention heads prefer
    what is near on the ground, in any modality (as ALiBi), `rotary` turns queries and keys by it.
    `num_registers` learned tokens stand beside the input tokens (Darcet et al. 2024).
    `embeddings: 4m` is for weights of 4M and TerraMind: one table of codes for what goes in and another
    for what comes out, both unscaled, pixel patches without bias, and positions kept with the weights.
    """

    shape: str | None = None
    width: int = Field(default=192, gt=0)
    encoder_depth: int = Field(default=4, gt=0)
    decoder_depth: int = Field(default=4, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    mlp: Literal["gelu", "swiglu"] = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    bias: bool = True
    norm_bias: bool | None = Field(default=None, description="of layer norms; null: as `bias`")
    qk_norm: bool = False
    norm_eps: float = Field(default=1e-5, gt=0)
    num_registers: int = Field(default=0, ge=0)
    relative_positions: Literal["none", "distance", "rotary"] = "none"
    embeddings: Literal["house", "4m"] = "house"

    @model_validator(mode="before")
    @classmethod
    def _take_shape(cls, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("shape")
        if name is None:
            return given
        if name not in SHAPES:
            raise ValueError(f"shape {name!r}: choose one of {', '.join(SHAPES)}")
        return SHAPES[name] | given

    @model_validator(mode="after")
    def _heads_divide(self) -> "TransformerConfig":
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of heads {self.heads}"
            )
        if self.relative_positions == "rotary" and self.width // self.heads % 4:
            raise ValueError("rotary positions need width / heads to be a multiple of 4")
        return self
