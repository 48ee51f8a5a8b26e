"""YAML file -> `base:` inheritance -> dotted overrides -> validated, frozen configuration.

    base.yaml  <-  file.yaml  <-  a.b=c overrides        (right wins; mappings merge, lists replace)

A file names its `kind:`, which picks the schema, and optionally `base:`, one path or a list of
paths relative to the file itself. Values may use OmegaConf interpolation (`${out}/shards`).
"""

import difflib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError
from configs.schema import KINDS
from configs.schema.base import Frozen

ROOT = Path(__file__).parent


def config_path(name: str | Path) -> Path:
    """The file a user means by `name`: a path, or one below the packaged `configs/` folder.

    Raises ConfigError when neither exists, naming the closest file that does.
    """
    path = Path(name)
    if path.is_file():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    packaged = ROOT.joinpath(*parts)
    if packaged.is_file():
        return packaged
    known = sorted(str(Path("configs") / p.relative_to(ROOT)) for p in ROOT.rglob("*.yaml"))
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"no configuration file {path}.{hint}")


def load_config(
    name: str | Path, overrides: Iterable[str] = (), *, kind: str | None = None
) -> Frozen:
    """Read, merge, override and validate one configuration.

    `kind` is what the caller can use; another kind in the file is an error.
    Raises ConfigError with the file, the key and the nearest valid key or the reason.
    """
    path = config_path(name)
    return parse_config(_merge_bases(path, seen=()), overrides, origin=str(path), kind=kind)


def read_config(name: str | Path) -> dict[str, Any]:
    """What a file and its bases say, not validated; for callers that add to it. Raises ConfigError."""
    node = _merge_bases(config_path(name), seen=())
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def parse_config(
    values: dict[str, Any] | Any,
    overrides: Iterable[str] = (),
    *,
    origin: str = "<values>",
    kind: str | None = None,
) -> Frozen:
    """Validate a plain mapping (or OmegaConf node) as `load_config` validates a file."""
    overrides = list(overrides)
    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise ConfigError(
                f"{text!r} is not an override; write key=value, such as engine.num_steps=100"
            )
    try:
        node = OmegaConf.merge(OmegaConf.create(values), OmegaConf.from_dotlist(overrides))
        plain: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{origin}: {error.full_key!r} has no value; write {error.full_key}=VALUE"
        ) from error
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{origin}: {error}") from error
    values = cast(dict[str, Any], plain)
    found = values.get("kind")
    if found not in KINDS:
        raise ConfigError(f"{origin}: `kind` is {found!r}; it must be one of {', '.join(KINDS)}")
    if kind is not None and found != kind:
        raise ConfigError(f"{origin}: its kind is {found}, and {kind} is needed here")
    model = KINDS[found]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, origin)) from error


def to_yaml(config: Frozen) -> str:
    """The configuration as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _merge_bases(path: Path, seen: tuple[Path, ...]) -> Any:
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ConfigError(f"{path}: `base:` goes in a circle: {chain}")
    try:
        own: Any = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not OmegaConf.is_dict(own):
        raise ConfigError(f"{path}: a configuration file holds a mapping of keys to values")
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else list(bases)
    for base in bases:
        if not (path.parent / base).is_file():
            raise ConfigError(f"{path}: `base: {base}` does not exist beside it")
    merged = [_merge_bases(path.parent / base, (*seen, resolved)) for base in bases]
    return OmegaConf.merge(*merged, own)


def _explain(error: ValidationError, model: type[BaseModel], origin: str) -> str:
    lines: list[str] = []
    for item in error.errors():
        where = ".".join(_path(model, item["loc"])) or "(top)"
        if item["type"] == "extra_forbidden":
            valid = sorted(_keys_at(model, item["loc"][:-1]))
            close = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(valid)}"
            lines.append(f"unknown key {where!r}: {hint}")
        elif item["type"] == "missing":
            lines.append(f"{where!r} is missing; set it in the file or write {where}=VALUE")
        else:
            given: Any = item["input"]
            got = "" if isinstance(given, dict) else f" (got {given!r})"
            lines.append(f"{where!r}: {item['msg']}{got}")
    return f"{origin}: " + "; ".join(lines)


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Field names valid at a location, following nested models, unions and mappings of models."""
    models = {model}
    for part in loc:
        following: set[type[BaseModel]] = set()
        for current in models:
            field = current.model_fields.get(str(part))
            # A discriminated union puts the tag, an index or a mapping key puts itself, into the
            # location; none of them is a field, so the candidates stay as they are.
            following |= _models_in(field.annotation) if field else {current}
        models = following
    return {name for m in models for name in m.model_fields}


def _path(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The location as the user wrote it: without the tags pydantic adds for unions."""
    parts = [str(p) for p in loc[:1]]
    for i in range(1, len(loc)):
        tag = loc[i] in _tags(model, loc[:i])
        if not tag:
            parts.append(str(loc[i]))
    return parts


def _tags(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Discriminator values a union at this location may carry."""
    field = model.model_fields.get(str(loc[-1])) if len(loc) == 1 else None
    if field is None or field.discriminator is None:
        return set()
    name = str(field.discriminator)
    return {str(m.model_fields[name].default) for m in _models_in(field.annotation)}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {m for arg in typing.get_args(annotation) for m in _models_in(arg)}
