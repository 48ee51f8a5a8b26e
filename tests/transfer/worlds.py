"""Tiny backbones and labelled files that tests share."""

from pathlib import Path

import numpy as np
import torch

from configs.registry import BandStatistics
from configs.schema import TaskConfig
from pipeline.data.transforms import Normaliser
from pipeline.data.views import Views
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.streams import Stream, with_offsets
from pipeline.transfer.backbone import Backbone
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.task import LabelledSamples, Task
from shards.sources.own_rows import image_row
from tests.pipeline.test_stage2_model import CONFIG

BANDS = ("B02", "B03", "B04", "B08")
CPU = torch.device("cpu")
LAYOUT = Layout(
    tuple(
        with_offsets(
            [
                Stream("S2@px", "S2", "pixels", 16, True, False, 40, (4, 4), 4, 4),
                Stream("S1GRD@px", "S1GRD", "pixels", 16, True, False, 40, (4, 4), 4, 2),
                Stream("LULC@tok", "LULC", "map", 16, False, True, 40, (4, 4), vocab_size=5),
            ]
        )
    ),
    window_m=160,
    views=Views(),
)  # fmt: skip


def save_stage2(folder: Path, seed: int = 0) -> Path:
    """A run with an artifact of a tiny stage-2 model over four optical bands and two radar ones."""
    from configs.registry import modality

    torch.manual_seed(seed)
    model = MaskedTransformer(LAYOUT, CONFIG).eval()
    s2 = image_row("S2", "", BANDS, np.dtype(np.float32), 10.0)
    normalisers = {
        "S2": Normaliser(s2, BandStatistics((100.0,) * 4, (50.0,) * 4)),
        "S1GRD": Normaliser(modality("S1GRD"), BandStatistics((-12.0, -20.0), (5.0, 6.0))),
    }
    artifact.save(model, normalisers, folder / "artifact")
    return folder


def stage2(folder: Path, seed: int | None = None) -> Backbone:
    return open_backbone(str(save_stage2(folder)), {}, CPU, seed).eval()


def write_tif(path: Path, array: np.ndarray, nodata: float | None = None) -> Path:
    """[C, H, W] at 10 m in UTM zone 32."""
    import rasterio
    from rasterio.transform import Affine

    path.parent.mkdir(parents=True, exist_ok=True)
    c, h, w = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=c, height=h, width=w, dtype=array.dtype, nodata=nodata,
        crs="EPSG:32632", transform=Affine(10, 0, 500_000, 0, -10, 5_600_000),
    ) as file:  # fmt: skip
        file.write(array)
    return path


def two_classes(rng: np.random.Generator, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """An image [4, n, n] of two materials, and which is where [1, n, n]: told by the last band."""
    where = np.zeros((size, size), dtype=np.uint8)
    where[:, size // 2 :] = 1
    if rng.random() < 0.5:
        where = where.T.copy()
    image = rng.normal(100, 20, (4, size, size))
    image[3] += 200 * where
    return image.astype(np.float32), where[None]


def write_masks(folder: Path, count: int = 24, seed: int = 0) -> Path:
    """A CSV of images and masks of two classes, with splits; gives the table."""
    rng = np.random.default_rng(seed)
    lines = ["image,mask,split"]
    for i in range(count):
        image, mask = two_classes(rng)
        write_tif(folder / f"i{i}.tif", image)
        write_tif(folder / f"m{i}.tif", mask)
        lines.append(f"i{i}.tif,m{i}.tif,{('train', 'train', 'val', 'test')[i % 4]}")
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def mask_task(table: Path, **more: object) -> TaskConfig:
    data = {
        "type": "csv", "table": table, "label": "mask", "split": "split",
        "images": {"image": {"modality": "S2", "bands": BANDS}}, "classes": ["left", "right"],
    }  # fmt: skip
    return TaskConfig.model_validate({"type": "segmentation", "data": data, **more})


def open_task(config: TaskConfig, backbone: Backbone) -> Task:
    return Task(LabelledSamples("t", config), backbone, cache_gb=1)
