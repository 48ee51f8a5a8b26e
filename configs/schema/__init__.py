"""The typed schema every YAML file obeys: frozen pydantic models, unknown keys forbidden.

One file per concern. `KINDS` maps a file's `kind:` to the model that reads it.
"""

from configs.schema.base import Frozen
from configs.schema.cluster import ClusterConfig
from configs.schema.data import DataConfig, MixedIn, SampleFilter
from configs.schema.engine import (
    CheckpointConfig,
    EngineConfig,
    GuardConfig,
    OffloadConfig,
    OptimizerConfig,
    ProfilerConfig,
    ScheduleConfig,
    WatchConfig,
)
from configs.schema.evaluate import EvaluateConfig, ProbeConfig
from configs.schema.experiment import (
    ComparisonConfig,
    ExperimentConfig,
    GenerateStep,
    ModelComparisonConfig,
    StepConfig,
    TokenChain,
)
from configs.schema.fusion import FusionConfig
from configs.schema.generate import GenerateConfig
from configs.schema.masked import MaskedConfig
from configs.schema.masking import (
    BlockMasking,
    DirichletMasking,
    MaskingConfig,
    NothingMasking,
    RandomMasking,
    SingleMasking,
    TubeMasking,
    WholeMasking,
)
from configs.schema.modality import ClassInfo, Codec, Display, Modality
from configs.schema.monitor import MonitorConfig, SheetConfig
from configs.schema.multimae import GroupConfig, MultiMAEConfig
from configs.schema.run import (
    FusionRunConfig,
    MaskedRunConfig,
    MultiMAERunConfig,
    RunConfig,
    Stage1Config,
    Stage2Config,
    TokenizeConfig,
)
from configs.schema.shards import ShardsConfig
from configs.schema.sources import (
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
from configs.schema.tokenizer import (
    DiffusionConfig,
    FSQConfig,
    GanConfig,
    PixelLossConfig,
    TokenizerConfig,
    VQConfig,
    WordPieceConfig,
)
from configs.schema.transfer import (
    ClassFolders,
    FitConfig,
    ImageFile,
    ImageTable,
    InputSet,
    ShardLabels,
    TaskConfig,
    TransferConfig,
)

KINDS: dict[str, type[Frozen]] = {
    "shards": ShardsConfig,
    "stage1": Stage1Config,
    "tokenize": TokenizeConfig,
    "stage2": Stage2Config,
    "fusion": FusionRunConfig,
    "multimae": MultiMAERunConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "transfer": TransferConfig,
    "experiment": ExperimentConfig,
    "comparison": ComparisonConfig,
    "model_comparison": ModelComparisonConfig,
    "cluster": ClusterConfig,
}

__all__ = [
    "KINDS",
    "BlockMasking",
    "CheckpointConfig",
    "ClassFolders",
    "ClassInfo",
    "ClusterConfig",
    "Codec",
    "ComparisonConfig",
    "DataConfig",
    "DiffusionConfig",
    "DirichletMasking",
    "Display",
    "EngineConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "FSQConfig",
    "FitConfig",
    "Frozen",
    "FusionConfig",
    "FusionRunConfig",
    "GanConfig",
    "GenerateConfig",
    "GenerateStep",
    "GeoBenchSourceConfig",
    "GeoTiffListSourceConfig",
    "GeoTiffSourceConfig",
    "GroupConfig",
    "GuardConfig",
    "ImageFile",
    "ImageTable",
    "InputSet",
    "MMEarthSourceConfig",
    "MaskedConfig",
    "MaskedRunConfig",
    "MaskingConfig",
    "MixedIn",
    "Modality",
    "ModelComparisonConfig",
    "MonitorConfig",
    "MultiMAEConfig",
    "MultiMAERunConfig",
    "NothingMasking",
    "OffloadConfig",
    "OptimizerConfig",
    "PixelLossConfig",
    "ProbeConfig",
    "ProfilerConfig",
    "RandomMasking",
    "RunConfig",
    "SampleFilter",
    "ScheduleConfig",
    "ShardLabels",
    "ShardsConfig",
    "SheetConfig",
    "SingleMasking",
    "SourceConfig",
    "Ssl4eoSourceConfig",
    "Stage1Config",
    "Stage2Config",
    "StepConfig",
    "SyntheticSourceConfig",
    "TaskConfig",
    "TerraMeshSourceConfig",
    "TokenChain",
    "TokenizeConfig",
    "TokenizerConfig",
    "TransferConfig",
    "TubeMasking",
    "VQConfig",
    "WatchConfig",
    "WebDatasetSourceConfig",
    "WholeMasking",
    "WordPieceConfig",
]
