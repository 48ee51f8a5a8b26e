"""Where samples come from: one model per layout that a reader in `shards/sources/` understands."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen


class SyntheticSourceConfig(Frozen):
    """The synthetic Earth: seeded, physically coupled samples, made on the fly.

    `missing` is the share of samples that lack each modality; `missing_by` overrides it per modality.
    `tile_px` counts pixels of 10 m and must be a multiple of 3, because Landsat lies on a 30 m grid.
    """

    type: Literal["synthetic"] = "synthetic"
    num_samples: int = Field(default=512, gt=0)
    tile_px: int = Field(default=96, gt=0, multiple_of=3)
    seed: int = 0
    missing: float = Field(default=0.1, ge=0, lt=1)
    missing_by: dict[str, float] = {}
    modalities: tuple[str, ...] = ()


class GeoTiffSourceConfig(Frozen):
    """A folder per modality, a GeoTIFF per sample: `path/<MODALITY>/<id>.tif`."""

    type: Literal["geotiff"] = "geotiff"
    path: Path
    modalities: tuple[str, ...] = ()
    suffix: str = ".tif"


class GeoTiffListSourceConfig(Frozen):
    """A table (CSV or Parquet) with a row per sample and the paths of its GeoTIFFs.

    `columns` maps a column of file paths to its modality; an empty cell is a missing modality. Paths
    are relative to `root`, or to the table's folder. `window` names four integer columns, such as
    [row_off, col_off, height, width], that cut the sample out of its files, in pixels of 10 m.
    """

    type: Literal["geotiff_list"] = "geotiff_list"
    table: Path
    root: Path | None = None
    key: str = "key"
    columns: dict[str, str]
    split: str | None = None
    date: str | None = None
    lon: str | None = None
    lat: str | None = None
    window: tuple[str, str, str, str] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "GeoTiffListSourceConfig":
        if not self.columns:
            raise ValueError("columns is empty; write columns: {COLUMN: MODALITY}")
        if len(set(self.columns.values())) < len(self.columns):
            raise ValueError(f"columns names a modality twice: {self.columns}")
        if (self.lon is None) != (self.lat is None):
            raise ValueError("lon and lat name two columns; give both or neither")
        return self


class MMEarthSourceConfig(Frozen):
    """MMEarth: the folder with `NAME.h5`, `NAME_tile_info.json` and `NAME_splits.json`.

    `name` is NAME; empty takes the only `.h5` there. Rows are read in runs of `rows_per_block`.
    """

    type: Literal["mmearth"] = "mmearth"
    path: Path
    name: str = ""
    modalities: tuple[str, ...] = ()
    rows_per_block: int = Field(default=1024, gt=0)


class GeoBenchSourceConfig(Frozen):
    """GEO-Bench v1: the folder of one task, with a `SAMPLE.hdf5` per sample.

    `partition` names `PARTITION_partition.json`, whose splits are kept. `modality_map` says which
    modality the bands of a sensor are, such as {Sentinel2: S2L1C}; sensors it does not name are told
    by their bands. `dates` picks one acquisition of a time series. `num_classes` is needed only
    where the task's own files do not say it.
    """

    type: Literal["geobench"] = "geobench"
    path: Path
    partition: str = "default"
    modality_map: dict[str, str] = {}
    dates: Literal["first", "last"] = "last"
    num_classes: int | None = Field(default=None, gt=0)


class WebDatasetSourceConfig(Frozen):
    """Any WebDataset: tar files whose members share a key.

    `urls` are local paths or globs. `members` maps a member's suffix, such as `s2.npy`, to its
    modality, or to `meta` for JSON with lon, lat, crs, transform or times. `classes` gives the number
    of classes of labels (`.cls`) whose modality the registry lacks. `split` names the split that all
    these tars belong to.
    """

    type: Literal["webdataset"] = "webdataset"
    urls: tuple[str, ...]
    members: dict[str, str]
    classes: dict[str, int] = {}
    split: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "WebDatasetSourceConfig":
        if not self.urls or not self.members:
            raise ValueError("urls and members must not be empty")
        if len(set(self.members.values())) < len(self.members):
            raise ValueError(f"members names a modality twice: {self.members}")
        strange = [name for name, num in self.classes.items() if num < 2]
        if strange or not set(self.classes) <= set(self.members.values()):
            raise ValueError(
                f"classes gives modalities of `members` their number of classes (2 or more), "
                f"got {self.classes}"
            )
        return self


class TerraMeshSourceConfig(Frozen):
    """TerraMesh: `path/{train,val}/<MODALITY>/<subset>_shard_NNNNNN.tar`, a folder or an http(s) URL.

    Of `splits`, those that exist are used; `subsets` such as [majortom] choose among shards, empty
    takes all. `harmonise_s2` gives optical values back the offset of 1,000 that the data set took
    from products acquired from 2022-01-25 on. CloudMask is read only where `modalities` name it. From
    a URL, whole tars are fetched into the folder `cache`, which all ranks should share; it keeps the
    last used `cache_gb`.
    """

    type: Literal["terramesh"] = "terramesh"
    path: str
    splits: tuple[str, ...] = ("train", "val")
    modalities: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    harmonise_s2: bool = False
    cache: Path | None = None
    cache_gb: float = Field(default=200, gt=0)

    @property
    def is_remote(self) -> bool:
        return self.path.startswith(("http://", "https://"))

    @model_validator(mode="after")
    def _consistent(self) -> "TerraMeshSourceConfig":
        if self.is_remote and self.cache is None:
            raise ValueError(
                "path is a URL; write cache=FOLDER, where the tars are kept while used"
            )
        return self


class Ssl4eoSourceConfig(Frozen):
    """SSL4EO-S12 v1.1: `path/{train,val}/<MODALITY>/*.zarr.zip`, 64 places of four seasons a file.

    Every place and season is a sample; `seasons` chooses among them. `together` makes every place one
    sample with a date per season, in the order of `seasons`: S2L2A, S2L2A_t1, ... Of `splits`, those that
    exist are used. CloudMask is read only where `modalities` name it, and is that of the first date.
    """

    type: Literal["ssl4eo"] = "ssl4eo"
    path: Path
    splits: tuple[str, ...] = ("train", "val")
    modalities: tuple[str, ...] = ()
    seasons: tuple[Annotated[int, Field(ge=0, le=3)], ...] = (0, 1, 2, 3)
    together: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Ssl4eoSourceConfig":
        if not self.seasons or len(set(self.seasons)) < len(self.seasons):
            raise ValueError(f"seasons are some of 0 .. 3, each once, not {self.seasons}")
        return self


SourceConfig = Annotated[
    SyntheticSourceConfig
    | GeoTiffSourceConfig
    | GeoTiffListSourceConfig
    | MMEarthSourceConfig
    | GeoBenchSourceConfig
    | WebDatasetSourceConfig
    | TerraMeshSourceConfig
    | Ssl4eoSourceConfig,
    Field(discriminator="type"),
]
