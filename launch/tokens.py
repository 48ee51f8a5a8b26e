"""From a source to a data set with tokens, as steps.

shards -> stage1/<MODALITY> ... -> tokenize
"""

from collections.abc import Iterator
from pathlib import Path

from configs import ConfigError
from configs.registry import in_registry_order
from configs.schema import MaskedRunConfig, StepConfig, TokenChain, TokenizeConfig
from launch.step import Step, Value, What, make_part


def token_steps(chain: TokenChain) -> Iterator[Step]:
    """All steps up to `tokenize`, the last. Raises ConfigError for any wrong configuration."""
    out = chain.out
    shards = out / "shards"
    view: dict[str, Value] = {"data.shards": shards}

    yield make_part(chain, "shards", What.shards, chain.shards, {"out": shards})

    tokenizers: dict[str, Path] = {}
    for name in in_registry_order(set(chain.stage1)):
        own = StepConfig(
            config=chain.stage1_base.config,
            overrides=chain.stage1_base.overrides + chain.stage1[name],
        )
        tokenizers[name] = out / "stage1" / name
        fixed = {"modality": name, "out": tokenizers[name], **view}
        yield make_part(chain, f"stage1/{name}", What.stage1, own, fixed, after=("shards",))

    fixed = {**view, **{f"tokenizers.{name}": path for name, path in tokenizers.items()}}
    after = tuple(f"stage1/{name}" for name in tokenizers) or ("shards",)
    yield make_part(chain, "tokenize", What.tokenize, chain.tokenize, fixed, after=after)


def check_tokens(tokens: Step, model: Step) -> None:
    """A model may name only tokens that the chain makes."""
    assert isinstance(tokens.config, TokenizeConfig)
    assert isinstance(model.config, MaskedRunConfig)
    made = {*tokens.config.tokenizers, *tokens.config.modalities}
    masked = model.config.masked
    missing = sorted({*masked.tokens, *masked.targets} - made)
    if missing:
        raise ConfigError(
            f"step {model.name}: masked.tokens or masked.targets name {', '.join(missing)}, which no "
            "step tokenizes; add them to the experiment's `stage1` (coordinates and date to the "
            "tokenize step's `modalities`), or leave them out of the model"
        )
