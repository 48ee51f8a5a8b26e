"""Ground floor: everything that can be said about a run, and the words for saying it.

`load_config` turns a YAML file and `a.b=c` overrides into one frozen, validated object;
`modality_registry` is the table of modalities. Nothing here imports torch.
"""

from configs.errors import ConfigError
from configs.load import config_path, load_config, parse_config, to_yaml
from configs.registry import modality_registry, statistics_set

__all__ = [
    "ConfigError",
    "config_path",
    "load_config",
    "modality_registry",
    "parse_config",
    "statistics_set",
    "to_yaml",
]
