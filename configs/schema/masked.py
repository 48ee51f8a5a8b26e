"""Stage 2: the masked multi-modal transformer and how its inputs and targets are drawn."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.masking import DirichletMasking, MaskingConfig, NothingMasking
from configs.schema.modality import dated, undated
from configs.schema.transformer import TransformerConfig


class MaskedConfig(TransformerConfig):
    """A 4M-style encoder-decoder over pixel patches and tokens.

    `pixels` and `tokens` name what may be an input, `targets` what may be predicted (as tokens).
    Each sample's `num_input_tokens` and `num_target_tokens` are drawn by one of the strategies of
    `masking`. A sequence that is both input and target is read or written (`prefix`), or loses spans
    that are asked for (`span`, T5).

    `dates` says on how many dates a map enters and is asked for: with `{S2L2A: 3}` S2L2A, S2L2A_t1 and
    S2L2A_t2 of the shards, in all forms in which S2L2A is named. Dates share everything that is learned
    of a modality and are told apart by their days; any of them may be missing. In masking and in the
    loss each counts as a modality of its own. `{S1GRD: 1}` tells the day of a modality of one date.

    The loss of a sample is the mean cross-entropy over its target tokens, taken modality by modality
    (`modality`: a modality with few tokens counts as much as one with many) or over all of them
    (`token`). `loss_weights` multiplies modalities; `uncertainty` learns such weights (Kendall et al.
    2018, eq. 10); `z_loss` times the squared log of the softmax's sum keeps logits small (Chowdhery et
    al. 2022, section 5).

    `init_from` names a run (or an artifact, or what `import-model` wrote) that training starts from.
    """

    pixels: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    targets: tuple[str, ...]
    patch_px: dict[str, Annotated[int, Field(gt=0)]] = {}
    dates: dict[str, Annotated[int, Field(ge=1, le=100)]] = {}
    num_input_tokens: int = Field(default=64, gt=0)
    num_target_tokens: int = Field(default=64, gt=0)
    masking: tuple[MaskingConfig, ...] = (DirichletMasking(),)
    sequences: Literal["prefix", "span"] = "prefix"
    loss: Literal["modality", "token"] = "modality"
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    uncertainty: bool = False
    z_loss: float = Field(default=0.0, ge=0)
    init_from: Path | None = None

    def on_dates(self, names: Iterable[str]) -> list[str]:
        """The names of modalities on all their dates: `S2L2A`, `S2L2A_t1`, ..."""
        return [dated(name, k) for name in names for k in range(self.dates.get(name, 1))]

    @model_validator(mode="after")
    def _known_dates(self) -> "MaskedConfig":
        named = {*self.pixels, *self.tokens, *self.targets}
        for name in sorted(named):
            if (base := undated(name)[0]) != name:
                raise ValueError(f"{name} is a date of {base}: name {base}, and it in `dates`")
        if stray := set(self.dates) - named:
            raise ValueError(
                f"dates names {', '.join(sorted(stray))}, not among `pixels`, `tokens`, `targets`"
            )
        return self

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

    @model_validator(mode="after")
    def _known_masking(self) -> "MaskedConfig":
        if not self.masking:
            raise ValueError("name at least one strategy in `masking`, such as {kind: dirichlet}")
        if not self.num_registers and any(isinstance(e, NothingMasking) for e in self.masking):
            raise ValueError(
                "masking: with {kind: nothing} some samples have no input, and attention needs a token; "
                "write num_registers: 4"
            )
        pixels, tokens, asked = map(self.on_dates, (self.pixels, self.tokens, self.targets))
        inputs = {*pixels, *tokens, *(f"{n}@px" for n in pixels), *(f"{n}@tok" for n in tokens)}
        targets = {*asked, *(f"{n}@tok" for n in asked)}
        for entry in self.masking:
            of = getattr(entry, "of", ())
            for name in () if isinstance(of, str) else of:
                if name not in inputs:
                    raise ValueError(
                        f"masking: `of` of {entry.kind} names {name}, which is no input; "
                        f"inputs are {', '.join(sorted(inputs))}"
                    )
            for key, names in (("alpha_input_by", inputs), ("alpha_target_by", targets)):
                for name in getattr(entry, key, {}):
                    if name not in names:
                        side = key.removeprefix("alpha_").removesuffix("_by")
                        raise ValueError(
                            f"masking: {key} names {name}, which is no {side}; "
                            f"{side}s are {', '.join(sorted(names))}"
                        )
        return self
