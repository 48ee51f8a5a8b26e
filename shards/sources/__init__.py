"""One reader per layout of Earth-observation samples; `open_source` picks by configuration."""

from configs.schema import (
    GeoBenchSourceConfig,
    GeoTiffListSourceConfig,
    GeoTiffSourceConfig,
    MMEarthSourceConfig,
    SourceConfig,
    Ssl4eoSourceConfig,
    SyntheticSourceConfig,
    TerraMeshSourceConfig,
    WebDatasetSourceConfig,
)
from shards.sources.base import SampleRef, Source

__all__ = ["SampleRef", "Source", "open_source"]


def open_source(config: SourceConfig) -> Source:
    """The source a configuration describes. Raises SourceError when it cannot be opened."""
    match config:
        case SyntheticSourceConfig():
            from shards.sources.synthetic import SyntheticSource

            return SyntheticSource(config)
        case GeoTiffSourceConfig():
            from shards.sources.geotiff import GeoTiffSource

            return GeoTiffSource(config)
        case GeoTiffListSourceConfig():
            from shards.sources.geotiff_list import GeoTiffListSource

            return GeoTiffListSource(config)
        case MMEarthSourceConfig():
            from shards.sources.mmearth import MMEarthSource

            return MMEarthSource(config)
        case GeoBenchSourceConfig():
            from shards.sources.geobench import GeoBenchSource

            return GeoBenchSource(config)
        case WebDatasetSourceConfig():
            from shards.sources.webdataset import WebDatasetSource

            return WebDatasetSource(config)
        case TerraMeshSourceConfig():
            from shards.sources.terramesh import TerraMeshSource

            return TerraMeshSource(config)
        case Ssl4eoSourceConfig():
            from shards.sources.ssl4eo import Ssl4eoSource

            return Ssl4eoSource(config)
