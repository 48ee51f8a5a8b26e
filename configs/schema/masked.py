"""Stage 2: the masked multi-modal transformer and how its inputs and targets are drawn."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.transformer import TransformerConfig


class MaskedConfig(TransformerConfig):
    """A 4M-style encoder-decoder over pixel patches and tokens.

    `pixels` and `tokens` name what may be an input, `targets` what may be predicted (as tokens).
    Input and target budgets are shared out among a sample's present modalities by a symmetric
    Dirichlet draw (`alpha_input`, `alpha_target`; mixtures: several values, one drawn per sample).
    `single_input_share` of the samples show one pixel modality alone (4M's "rgb to all").

    The loss of a sample is the mean cross-entropy over its target tokens, taken modality by modality
    (`modality`: a modality with few tokens counts as much as one with many) or over all of them
    (`token`). `loss_weights` multiplies modalities; `uncertainty` learns such weights (Kendall et al.
    2018, eq. 10); `z_loss` times the squared log of the softmax's sum keeps logits small (Chowdhery et
    al. 2022, section 5).
    """

    pixels: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    targets: tuple[str, ...]
    patch_px: dict[str, int] = {}
    num_input_tokens: int = Field(default=64, gt=0)
    num_target_tokens: int = Field(default=64, gt=0)
    alpha_input: tuple[float, ...] = (0.2, 1.0)
    alpha_target: tuple[float, ...] = (0.5,)
    single_input_share: float = Field(default=0.0, ge=0, le=1)
    loss: Literal["modality", "token"] = "modality"
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    uncertainty: bool = False
    z_loss: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _some_input(self) -> "MaskedConfig":
        if not self.pixels and not self.tokens:
            raise ValueError(
                "name at least one modality in `pixels` or `tokens`: nothing can be an input"
            )
        if not self.targets:
            raise ValueError("name at least one modality in `targets`: nothing would be learned")
        if stray := set(self.loss_weights) - set(self.targets):
            raise ValueError(f"loss_weights names {', '.join(sorted(stray))}, not among `targets`")
        return self
