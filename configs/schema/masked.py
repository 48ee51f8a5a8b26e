"""Stage 2: the masked multi-modal transformer and how its inputs and targets are drawn."""

from pydantic import Field, model_validator

from configs.schema.base import Frozen


class MaskedConfig(Frozen):
    """A 4M-style encoder-decoder over pixel patches and tokens.

    `pixels` and `tokens` name what may be an input, `targets` what may be predicted (as tokens).
    Input and target budgets are shared out among a sample's present modalities by a symmetric
    Dirichlet draw (`alpha_input`, `alpha_target`; mixtures: several values, one drawn per sample).
    `single_input_share` of the samples show one pixel modality alone (4M's "rgb to all").
    `distance_bias` lets most attention heads prefer what is near on the ground, in any modality.
    """

    pixels: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    targets: tuple[str, ...]
    patch_px: dict[str, int] = {}
    width: int = Field(default=192, gt=0)
    encoder_depth: int = Field(default=4, gt=0)
    decoder_depth: int = Field(default=4, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    distance_bias: bool = False
    num_input_tokens: int = Field(default=64, gt=0)
    num_target_tokens: int = Field(default=64, gt=0)
    alpha_input: tuple[float, ...] = (0.2, 1.0)
    alpha_target: tuple[float, ...] = (0.5,)
    single_input_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _some_input(self) -> "MaskedConfig":
        if not self.pixels and not self.tokens:
            raise ValueError(
                "name at least one modality in `pixels` or `tokens`: nothing can be an input"
            )
        if not self.targets:
            raise ValueError("name at least one modality in `targets`: nothing would be learned")
        return self
