"""Stage 2: how the inputs and targets of a sample are drawn. One model per strategy."""

from typing import Annotated, Literal

from pydantic import Field

from configs.schema.base import Frozen

Alpha = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class _Masking(Frozen):
    """`weight`: how often a strategy is drawn, in proportion to the others' weights.

    `modality_dropout`: chance of each input modality not to be seen at all; one always stays.
    """

    weight: float = Field(default=1.0, gt=0)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)


class _TargetShares(_Masking):
    """Targets are shared out among a sample's modalities by a Dirichlet draw.

    `alpha_target` has one or several values, one of them drawn per sample; small ones favour few
    modalities. `alpha_target_by` overrides it by modality (`LULC`; of several dates all, or one of them:
    `NDVI_t1`) or stream (`LULC@tok`). Alpha 0: nothing as long as others have tokens to give.
    """

    alpha_target: tuple[Alpha, ...] = Field(default=(0.5,), min_length=1)
    alpha_target_by: dict[str, Alpha] = {}


class _Shares(_TargetShares):
    """Inputs are shared out likewise (4M, Mizrahi et al. 2023, section 3.2)."""

    alpha_input: tuple[Alpha, ...] = Field(default=(0.2, 1.0), min_length=1)
    alpha_input_by: dict[str, Alpha] = {}


class DirichletMasking(_Shares):
    """Any tokens; the shares of the modalities by Dirichlet draws."""

    kind: Literal["dirichlet"] = "dirichlet"


class RandomMasking(_Masking):
    """Any tokens, all alike: modalities of many tokens give more."""

    kind: Literal["random"] = "random"


class BlockMasking(_Shares):
    """`num_blocks` rectangles on the ground, `share` of it together, are hidden and asked for."""

    kind: Literal["block"] = "block"
    share: Share = 0.5
    num_blocks: int = Field(default=1, gt=0)


class TubeMasking(_Shares):
    """`share` of the places on the ground, scattered, are hidden in all maps and asked for."""

    kind: Literal["tube"] = "tube"
    share: Share = 0.5


class _Whole(_TargetShares):
    """`of`: the pixels of a modality, `any` modality, `metadata` (place or date), or one of a list.

    A list names modalities or streams as `alpha_input_by` does. Samples that have none of them show any.
    """

    of: Literal["pixels", "any", "metadata"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "pixels"
    )


class SingleMasking(_Whole):
    """One modality alone is seen (4M's "rgb to all")."""

    kind: Literal["single"] = "single"


class WholeMasking(_Whole):
    """`num` modalities are seen, each as a whole as far as the budget goes; the first is one `of` those.

    What generation from two sources shows, and every chain: give `num_input_tokens` room for that.
    """

    kind: Literal["whole"] = "whole"
    num: int = Field(default=2, gt=0)


class NothingMasking(_TargetShares):
    """Nothing is seen: what a model makes of no source, which guidance compares with.

    Ho and Salimans (2022) leave the condition out of 10 to 20 % of the samples.
    """

    kind: Literal["nothing"] = "nothing"


MaskingConfig = Annotated[
    DirichletMasking
    | RandomMasking
    | BlockMasking
    | TubeMasking
    | SingleMasking
    | WholeMasking
    | NothingMasking,
    Field(discriminator="kind"),
]
