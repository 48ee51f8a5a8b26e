"""Tiled inference of a transfer model over one large GeoTIFF: pixels per second, and memory.

    python benchmarks/transfer.py [--side 10000] [--bands 4] [--window-px 224] [--folder DIR] [--json FILE]

The scene is a tiled int16 GeoTIFF of noise, written first and not timed. The model has fresh weights, which
cost what trained ones do: a stage-2 encoder (width 192, 6 blocks, patches of 16 px) and a linear head of nine
classes, in fp32. It runs in a process of its own. Memory is the peak of that process less its peak once the
model was loaded; what GDAL caches is in it (64 MB).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

CLASSES = 9
PATCH_PX, WIDTH, DEPTH = 16, 192, 6
_BLOCK = 512
_CACHE_MB = 64


def write_scene(path: Path, side: int, bands: int) -> None:
    """Noise, block by block: a scene larger than memory is no trouble."""
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window

    rng = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=side, width=side, dtype="int16",
        tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, crs="EPSG:32632",
        transform=Affine(10, 0, 500_000, 0, -10, 5_600_000), BIGTIFF="IF_SAFER",
    ) as file:  # fmt: skip
        noise = rng.integers(1, 4000, (bands, _BLOCK, _BLOCK), dtype=np.int16)
        for top in range(0, side, _BLOCK):
            for left in range(0, side, _BLOCK):
                h, w = min(_BLOCK, side - top), min(_BLOCK, side - left)
                window = Window(left, top, w, h)  # type: ignore[call-arg]
                file.write(noise[:, :h, :w], window=window)


def make_run(folder: Path, bands: int, window_px: int) -> None:
    """An artifact of a model that was not trained."""
    import torch

    from configs.registry import BandStatistics
    from configs.schema import MaskedConfig
    from pipeline.data.transforms import Normaliser
    from pipeline.data.views import Views
    from pipeline.stage2 import artifact
    from pipeline.stage2.layout import Layout
    from pipeline.stage2.model import MaskedTransformer
    from pipeline.stage2.streams import Stream, with_offsets
    from shards.sources.own_rows import image_row

    side = window_px // PATCH_PX
    grid = (side, side)
    streams = [
        Stream("S2@px", "S2", "pixels", side**2, True, False, PATCH_PX * 10, grid, PATCH_PX, bands),
        Stream("LULC@tok", "LULC", "map", side**2, False, True, PATCH_PX * 10, grid, vocab_size=16),
    ]
    layout = Layout(tuple(with_offsets(streams)), window_px * 10, Views())
    config = MaskedConfig(
        pixels=("S2",),
        targets=("LULC",),
        width=WIDTH,
        heads=3,
        encoder_depth=DEPTH,
        decoder_depth=1,
    )
    torch.manual_seed(0)
    names = [f"B{i + 1:02d}" for i in range(bands)]
    row = image_row("S2", "", names, np.dtype(np.int16), 10.0)
    statistics = BandStatistics((2000.0,) * bands, (1000.0,) * bands)
    model = MaskedTransformer(layout, config)
    artifact.save(model, {"S2": Normaliser(row, statistics)}, folder / "artifact")


def measure(folder: Path, scene: Path, bands: int, window_px: int) -> dict[str, float]:
    """Predict the scene in this process."""
    import torch

    from pipeline.transfer.adapt import Adapter
    from pipeline.transfer.fit import Scale
    from pipeline.transfer.heads import layers_for, make_head
    from pipeline.transfer.opening import open_backbone
    from pipeline.transfer.saved import SavedModel
    from pipeline.transfer.scene import predict_scene
    from shards.sources.own_rows import class_map_row, image_row

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = open_backbone(str(folder), {}, device).eval().requires_grad_(False)
    head = make_head("linear", is_map=True, width=WIDTH, num_outputs=CLASSES, num_doublings=0)
    intake = backbone.intakes["S2"]
    row = image_row("S2", "", intake.bands, np.dtype(np.int16), 10.0)
    label = class_map_row("label", "", [f"class {i}" for i in range(CLASSES)], 10.0)
    window_m = window_px * 10.0, window_px * 10.0
    model = SavedModel(
        backbone, head.to(device).eval().requires_grad_(False), {"S2": Adapter(row, intake, None)},
        {"S2": "S2"}, layers_for("linear", backbone.depth), label, "segmentation",
        tuple(range(CLASSES)), Scale(), window_m, window_m, {}, {},
    )  # fmt: skip
    loaded = _peak_mb()
    started = time.perf_counter()
    predict_scene(model, {"S2": scene}, folder / "map.tif")
    return {
        "seconds": time.perf_counter() - started,
        "model_mb": loaded,
        "beyond_mb": _peak_mb() - loaded,
        "map_mb": (folder / "map.tif").stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_000, help="of the scene in pixels")
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--window-px", type=int, default=224)
    parser.add_argument(
        "--folder", type=Path, help="for the scene and the map; a temporary one by default"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        found = measure(asked.inside, asked.inside / "scene.tif", asked.bands, asked.window_px)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        make_run(folder, asked.bands, asked.window_px)
        write_scene(folder / "scene.tif", asked.side, asked.bands)
        size_mb = (folder / "scene.tif").stat().st_size / 1e6
        done = subprocess.run(
            [
                sys.executable, __file__, "--inside", str(folder), "--bands", str(asked.bands),
                "--window-px", str(asked.window_px),
            ],
            stdout=subprocess.PIPE, text=True, check=True,
            env=os.environ | {"GDAL_CACHEMAX": str(_CACHE_MB)},
        )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    found |= {"side_px": asked.side, "bands": asked.bands, "window_px": asked.window_px}
    found["scene_mb"], found["pixels_per_s"] = size_mb, asked.side**2 / found["seconds"]
    sys.stdout.write(
        f"{asked.side} x {asked.side} px, {asked.bands} bands ({size_mb:,.0f} MB): "
        f"{found['seconds']:,.0f} s, {found['pixels_per_s'] / 1e6:.2f} M pixels/s, "
        f"{found['beyond_mb']:,.0f} MB beyond the {found['model_mb']:,.0f} MB with the model loaded\n"
    )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
