"""From the options of `python -m pipeline generate` to a configuration. Imports no torch."""

from pathlib import Path
from typing import Any

from configs import ConfigError, load_config
from configs.load import parse_config, read_config
from configs.schema import GenerateConfig, Stage2Config
from pipeline.engine.identity import digest_of


def assembled(
    config: Path | None,
    run: Path | None,
    source: str,
    target: str,
    given: list[str],
    truth: list[str],
    tokenizers: list[str],
    out: Path | None,
    overrides: list[str],
) -> GenerateConfig:
    """The configuration that the options ask for; overrides win over options, options over the file, if any.

    Without data and inputs, the data of the run; without `out`, RUN/generate/FROM-to-TO.
    Raises ConfigError.
    """
    values: dict[str, Any] = {"kind": "generate"} if config is None else read_config(config)
    if run is not None:
        values["run"] = str(run)
    if source:
        values["source"] = _names(source)
    if target:
        values["target"] = _names(target)
    if given:
        values["inputs"] = dict(_pair(text, "--input") for text in given)
        values.pop("data", None)
    if truth:
        values["truth"] = dict(_pair(text, "--truth") for text in truth)
    if tokenizers:
        found = dict(_pair(text, "--tokenizer", "runs/stage1/S2L2A") for text in tokenizers)
        values["tokenizers"] = {**values.get("tokenizers", {}), **found}
    if out is not None:
        values["out"] = str(out)
    keys = {text.split("=")[0] for text in overrides}
    asked = {key.split(".")[0] for key in keys}
    where = values.get("run")
    is_told = "data" in values or keys & {"data", "data.shards"}
    if where and not is_told and "inputs" not in {*values} | asked:
        values["data"] = _data_of(Path(where))
    sources = values.get("source") or list(values.get("inputs", ()))
    if where and not {"out"} & ({*values} | asked) and sources and values.get("target"):
        name = f"{'+'.join(sources)}-to-{'+'.join(values['target'])}"
        values["out"] = str(Path(where) / "generate" / name)
    loaded = parse_config(values, overrides, origin=str(config or "generate"), kind="generate")
    assert isinstance(loaded, GenerateConfig)
    return loaded


def made_of(config: GenerateConfig) -> str:
    """What the result of a configuration is made of, as a digest. Raises RunError or OSError."""
    named = [Path(text) for text in (*config.inputs.values(), *config.truth.values())]
    # Texts, places and days stand in the configuration itself.
    files = [path for path in named if path.is_file()]
    shards = None if config.data is None else str(config.data.shards)
    return digest_of([config.run, *config.tokenizers.values()], files, shards)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pair(text: str, option: str, example: str = "scene.tif") -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise ConfigError(f"{option} {text}: write MODALITY=PATH, such as {option} S2L2A={example}")
    return name, value


def _data_of(run: Path) -> dict[str, Any]:
    """The run's own data, splits and filter with it: what it was trained on is not held out."""
    path = run / "config.yaml"
    if not path.is_file() and (run / "artifact" / "config.json").is_file():
        raise ConfigError(
            f"--run {run}: this model was imported and has no data of its own; say what to start from, "
            "data.shards=FOLDER or --input S2L2A=scene.tif"
        )
    if not path.is_file():
        raise ConfigError(f"--run {run}: no such run, {path} is missing")
    config = load_config(path, kind="stage2")
    assert isinstance(config, Stage2Config)
    return config.data.model_dump(mode="json")
