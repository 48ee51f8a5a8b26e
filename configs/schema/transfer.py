"""Downstream tasks: what is pretrained, judged on labels, always in the same way."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen
from configs.schema.data import FolderOrUrl, SampleFilter
from configs.schema.sources import GeoBenchSourceConfig

TaskType = Literal["classification", "multilabel", "segmentation", "regression"]
HeadType = Literal["linear", "conv", "upernet"]
Protocol = Literal["knn", "probe", "finetune"]
MergeType = Literal["mean", "concat"]
Share = Annotated[float, Field(gt=0, le=1)]


class ShardLabels(Frozen):
    """Labels in our own shards: `label` of a task names one of their modalities.

    `test` is by default the split that pretraining never trained on; without `val`, a fifth of the
    training samples is held out for early stopping.
    """

    type: Literal["shards"] = "shards"
    shards: FolderOrUrl
    train: str = "train"
    val: str = ""
    test: str = "val"
    filter: SampleFilter = SampleFilter()


class ImageFile(Frozen):
    """What an image file holds: a registry modality, or one of its own with these `bands`.

    `bands` name the file's channels in the file's order; empty where that is the registry's. Bands
    that a registry modality lacks, or has elsewhere, make a modality of their own.
    """

    modality: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    bands: tuple[str, ...] = ()
    gsd_m: float = Field(default=10.0, gt=0)
    nodata: float | None = None


class ClassFolders(Frozen):
    """A folder per class, an image per sample: `path/<CLASS>/*.tif` (or .png, .jpg).

    With `path/{train,val,test}/<CLASS>/` the splits are those; else `val` and `test` shares of each
    class are drawn by a hash of the file's name, the same for ever.
    """

    type: Literal["folders"] = "folders"
    path: Path
    image: ImageFile
    val: float = Field(default=0.2, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)


class ImageTable(Frozen):
    """A CSV with a row per sample: paths of its images, and a label or the path of a mask.

    `images` says what each column of paths holds; an empty cell is a missing modality. The column
    `label` holds a class (several, separated by `;`, for multilabel) or the path of a mask, whose
    values `classes` name from 0 on (`nodata` pixels count nowhere); for regression the mask's values are the
    targets. Paths are relative to `root` (default: the table's folder). The column `split` says train,
    val or test; without one, shares are drawn as for class folders.
    """

    type: Literal["csv"] = "csv"
    table: Path
    images: dict[str, ImageFile] = Field(min_length=1)
    label: str = "label"
    split: str = ""
    root: Path | None = None
    classes: tuple[str, ...] = ()
    nodata: float | None = None
    unit: str = ""
    val: float = Field(default=0.2, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)


TaskData = Annotated[
    ShardLabels | GeoBenchSourceConfig | ClassFolders | ImageTable, Field(discriminator="type")
]


class TaskConfig(Frozen):
    """One task.

    `label` names the modality that is the target (shards only; others have one label). Of a class map
    `classification` tells the most frequent class of a sample, `multilabel` those that cover at least
    `min_share`. `inputs` are the modalities given (empty: all that the data has and the backbone takes,
    the label aside). `modality_map` says as what the backbone sees a modality of the data, such as
    {S2L1C: S2L2A}. Bands are matched by name, unless names say that a number means another band there (NIR
    is B5 of Landsat, B08 of Sentinel-2); `band_map` {modality of the data: {band of the backbone: band of the
    data}} wins over names.

    `statistics: task` shifts and scales each band so that its training mean and deviation become those
    the backbone was trained with; `model` gives it the values as they are. `window_m` is the side of the
    ground that images are resized to show (null: their own, rounded to whole patches). `max_*` take
    that many samples of a split, evenly spread (0: all).
    """

    type: TaskType
    data: TaskData
    label: str = "label"
    inputs: tuple[str, ...] = ()
    modality_map: dict[str, str] = {}
    band_map: dict[str, dict[str, str]] = {}
    statistics: Literal["model", "task"] = "model"
    window_m: float | None = Field(default=None, gt=0)
    head: HeadType = "linear"
    min_share: float = Field(default=0.05, gt=0, lt=1)
    max_train: int = Field(default=0, ge=0)
    max_val: int = Field(default=0, ge=0)
    max_test: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fitting(self) -> "TaskConfig":
        if self.head != "linear" and self.type in ("classification", "multilabel"):
            raise ValueError(
                f"head={self.head} makes maps; a {self.type} task has the head `linear`"
            )
        if isinstance(self.data, ClassFolders) and self.type != "classification":
            raise ValueError(f"class folders have one class per image: no {self.type} task")
        return self


class InputSet(Frozen):
    """What is given of a sample: these `modalities` (null: all), `without` some, without some bands."""

    modalities: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    without_bands: dict[str, tuple[str, ...]] = {}


class FitConfig(Frozen):
    """How a head is trained, alone (`probe`) or with the backbone (`finetune`).

    AdamW, warm-up over a tenth of the steps, then a cosine to zero. The head learns with `head_lr`, the
    backbone with `lr` times `layer_decay` per layer away from the head (Bao et al. 2022, BEiT). For its
    first `freeze_steps`, at most a quarter of all, fine-tuning teaches the head alone: the gradients of a
    random head would distort what the backbone has learned (Kumar et al. 2022, LP-FT). Every `eval_every`
    steps the validation split is scored; after `patience` evaluations without a better one training ends,
    and the best weights count. In fine-tuning, `modality_dropout` hides each modality of a sample with this
    probability, never all of them, and `augment` shows a batch in one of the 8 symmetries of the square;
    a probe reads features that were computed once.
    """

    num_steps: int = Field(default=400, gt=0)
    batch: int = Field(default=32, gt=0)
    head_lr: float = Field(default=1e-2, gt=0)
    lr: float = Field(default=5e-4, gt=0)
    freeze_steps: int = Field(default=50, ge=0)
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    eval_every: int = Field(default=25, gt=0)
    patience: int = Field(default=6, gt=0)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True


class TransferConfig(Frozen):
    """A backbone on tasks. Every task, protocol, training set, amount of labels and seed is a cell.

    `backbone` is a run or an artifact of this project, or `timm:NAME`; `init: random` is its twin with
    fresh weights. Features of several modalities (of a MultiMAE: groups) become one map by their `mean`, or
    by `concat` beside each other, with zeros for what is absent; stage 2 and MultiMAE only: late fusion and
    ViTs of timm have one vector per place anyway.

    Amounts of labels are `fractions` of the training samples and `shots` per class; they are nested and
    stratified, drawn by the seed. `train_on` and `test_on` are sets of inputs by name; every model is
    tested on all of `test_on` (null: everything, without each modality, each alone).

    Results are lines of OUT/results.jsonl, which is the record: a cell that stands there is not made
    again. `bootstrap` resamplings of the test samples give 95 % intervals. `keep_models` writes each
    trained model to OUT/models, for `python -m pipeline predict`; a cell whose model is not there is then
    made again. `cache_gb` of memory hold adapted images (a half) and features of a frozen backbone (the
    other).
    """

    kind: Literal["transfer"]
    backbone: str
    init: Literal["pretrained", "random"] = "pretrained"
    merge: MergeType = "mean"
    out: Path
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(default=("knn", "probe"), min_length=1)
    fractions: tuple[Share, ...] = (1.0,)
    shots: tuple[Annotated[int, Field(gt=0)], ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    train_on: dict[str, InputSet] = Field(default={"all": InputSet()}, min_length=1)
    test_on: dict[str, InputSet] | None = None
    fit: FitConfig = FitConfig()
    neighbours: int = Field(default=20, gt=0)
    bootstrap: int = Field(default=1000, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache_gb: float = Field(default=4.0, ge=0)
    keep_models: bool = False

    @model_validator(mode="after")
    def _some_labels(self) -> "TransferConfig":
        if not self.fractions and not self.shots:
            raise ValueError("name some `fractions` (1.0: all labels) or `shots` per class")
        return self
