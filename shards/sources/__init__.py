"""One reader per layout of Earth-observation samples; `open_source` picks by configuration."""

from configs.schema import GeoTiffSourceConfig, SyntheticSourceConfig
from shards.sources.base import SampleRef, Source

__all__ = ["SampleRef", "Source", "open_source"]


def open_source(config: GeoTiffSourceConfig | SyntheticSourceConfig) -> Source:
    """The source a configuration describes. Raises SourceError when it cannot be opened."""
    match config:
        case SyntheticSourceConfig():
            from shards.sources.synthetic import SyntheticSource

            return SyntheticSource(config)
        case GeoTiffSourceConfig():
            from shards.sources.geotiff import GeoTiffSource

            return GeoTiffSource(config)
