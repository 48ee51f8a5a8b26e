"""MLP late fusion: how what each modality says by itself is put together."""

from typing import Annotated, Literal

from pydantic import Field

from configs.schema.base import Frozen


class FusionConfig(Frozen):
    """Visible tokens are pooled modality by modality; an MLP combines what comes out.

    Each token passes `token_depth` MLPs by itself. Around a target the tokens of a modality are averaged
    with weights that fall by 1/e in each of `reach_m` metres, and once more with equal weights. The
    averages of all modalities are combined and pass `depth` MLPs:

    concat   side by side, with a learned vector for a modality that is missing
    mean     averaged over the modalities that are there
    gated    averaged with weights that depend on the target and on what each has to say
    """

    combine: Literal["concat", "mean", "gated"] = "concat"
    reach_m: tuple[Annotated[float, Field(gt=0)], ...] = (20.0, 80.0)
    token_depth: int = Field(default=1, ge=0)
    depth: int = Field(default=3, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
