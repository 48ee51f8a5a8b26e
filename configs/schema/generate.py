"""Any-to-any generation from a trained stage-2 run."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen
from configs.schema.data import DataConfig


class SceneConfig(Frozen):
    """A scene larger than a window: in overlapping tiles, blended by ramps over the overlap.

    `overlap` is the share of a window's side that neighbours have in common, at least.
    """

    overlap: float = Field(default=0.25, ge=0, le=0.75)


class GenerateConfig(Frozen):
    """Modalities in, other modalities out, decoded to pixels and scored where truth is there.

    Sources are samples of `data`, or one scene: `inputs` names for each source modality a GeoTIFF or a
    .npy [C, H, W] on the same ground, a text, `longitude,latitude`, or a date; `truth` likewise maps to
    score against.

    `estimate` decides what a map is: `draw` draws tokens and sums `num_draws` of them up by their mean,
    or per pixel by the most frequent class, and tells how far they are apart; `expected` decodes
    each token's expected latent (of class maps the most likely code), given the sources alone, and mixes
    it with the mean of what the codes stood for in training: no detail that the sources do not tell, and
    the smaller error. Maps of images are then set right by `num_calibration` training samples, from which the
    model makes maps first: what it makes of sources that tell little comes nearer to the mean (0: as
    they are). Texts, places and dates are drawn once.

    How tokens are drawn: `steps` rounds of `schedule` (`maskgit`: the most certain first, `roar`: in
    random order), `temperature` (0: the most likely), `top_k` (0: all), `top_p`; `guidance` above 1
    follows the sources more than the model would, `guidance_by` weighs them one by one. `chain` makes
    each finished target input of the next, in the order of `target`.

    `tokenizers` are folders of stage-1 runs, or of what `import-tokenizer` wrote: of an imported model,
    whose weights do not say them, and of one whose tokenizers have moved.

    `num_pictures` bounds the rows of the picture sheet.
    """

    kind: Literal["generate"]
    run: Path
    out: Path
    data: DataConfig | None = None
    inputs: dict[str, str] = {}
    truth: dict[str, str] = {}
    tokenizers: dict[str, Path] = {}
    scene: SceneConfig = SceneConfig()
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = Field(min_length=1)
    split: str = "val"
    num_samples: int = Field(default=64, gt=0)
    batch: int = Field(default=16, gt=0)
    estimate: Literal["draw", "expected"] = "draw"
    num_calibration: int = Field(default=128, ge=0)
    schedule: Literal["maskgit", "roar"] = "maskgit"
    shape: Literal["cosine", "linear"] = "cosine"
    steps: int = Field(default=8, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    guidance: float = Field(default=1.0, ge=0)
    guidance_by: dict[str, float] = {}
    chain: bool = False
    num_draws: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0)
    num_pictures: int = Field(default=6, gt=0)

    @model_validator(mode="after")
    def _agrees(self) -> "GenerateConfig":
        if bool(self.inputs) == (self.data is not None):
            raise ValueError(
                "give `data`, a shard set, or `inputs`, a file for each source; not both"
            )
        if self.inputs and self.source and set(self.source) != set(self.inputs):
            raise ValueError(f"source and inputs differ: {self.source}, {tuple(self.inputs)}")
        if not self.source and not self.inputs:
            raise ValueError("name at least one modality in `source`")
        sources = set(self.source or self.inputs)
        if both := sources & set(self.target):
            raise ValueError(f"{', '.join(sorted(both))} cannot be both source and target")
        if stray := set(self.guidance_by) - sources:
            raise ValueError(f"guidance_by names {', '.join(sorted(stray))}, which is no source")
        if stray := set(self.tokenizers) - sources - set(self.target):
            raise ValueError(
                f"tokenizers names {', '.join(sorted(stray))}, neither source nor target"
            )
        if self.truth and self.data is not None:
            raise ValueError("truth is for a scene in files; samples of `data` bring their own")
        if stray := set(self.truth) - set(self.target):
            raise ValueError(f"truth names {', '.join(sorted(stray))}, which is no target")
        if self.guidance_by and self.guidance != 1:
            raise ValueError("give guidance or guidance_by, not both")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The modalities given, in the order given."""
        return self.source or tuple(self.inputs)
