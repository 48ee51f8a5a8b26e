"""A scene in files, through an untrained model with real tokenizers, to georeferenced maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from configs import ConfigError, parse_config, to_yaml
from configs.registry import BandStatistics, modality
from configs.schema import GenerateConfig, MaskedConfig, TokenizerConfig
from pipeline.data.transforms import Normaliser
from pipeline.data.views import Views
from pipeline.engine.errors import RunError
from pipeline.generate.rasters import opened
from pipeline.generate.run import generate
from pipeline.generate.scene import _score
from pipeline.stage1.artifact import ImageTokenizer, fingerprint
from pipeline.stage1.tokenizer import Tokenizer
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.streams import Stream

SIDE, PATCH = 24, 8
GRID = (SIDE // PATCH, SIDE // PATCH)
STATISTICS = {
    "S2L2A": BandStatistics((1000.0,) * 12, (500.0,) * 12),
    "DEM": BandStatistics((400.0,), (300.0,)),
}
SMALL = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}


def save_tokenizer(name, folder):
    row = modality(name)
    config = TokenizerConfig.model_validate(
        SMALL | {"patch_px": PATCH, "crop_px": SIDE, "fsq": {"levels": [3, 3]}}
    )
    tokenizer = ImageTokenizer(Tokenizer(row, config, SIDE), row, STATISTICS.get(name))
    tokenizer.save(folder / "artifact")
    return {
        "modality": name, "kind": row.kind, "artifact": f"../{folder.name}/artifact",
        "tokenizer": fingerprint(folder / "artifact"), "num_tokens": GRID[0] * GRID[1],
        "vocab_size": 9, "grid": list(GRID), "window_m": 240.0, "views": Views().to_dict(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("run")
    info = {name: save_tokenizer(name, root / name) for name in ("LULC", "DEM")}
    streams, positions, codes = [], 0, 0
    streams.append(
        Stream(
            "S2L2A@px", "S2L2A", "pixels", 9, True, False, 80.0, GRID, patch_px=PATCH, num_bands=12
        )
    )
    for name in ("DEM", "LULC"):
        positions += 9
        streams.append(
            Stream(f"{name}@tok", name, "map", 9, True, True, 80.0, GRID, vocab_size=9,
                   position_offset=positions, vocab_offset=codes)
        )  # fmt: skip
        codes += 9
    layout = Layout(tuple(streams), 240.0, Views(), info)
    masked = MaskedConfig.model_validate(
        SMALL | {"pixels": ["S2L2A"], "tokens": ["DEM", "LULC"], "targets": ["DEM", "LULC"]}
    )
    normaliser = Normaliser(modality("S2L2A"), STATISTICS["S2L2A"])
    artifact.save(MaskedTransformer(layout, masked), {"S2L2A": normaliser}, root / "artifact")
    config = {
        "kind": "stage2", "out": str(root), "data": {"shards": str(root / "shards")},
        "masked": masked.model_dump(mode="json"), "engine": {"num_steps": 1, "global_batch": 1},
    }  # fmt: skip
    (root / "config.yaml").write_text(to_yaml(parse_config(config, kind="stage2")))
    return root


def write_tif(path, array, x=500_000.0, y=5_000_000.0, pixel=10.0, crs="EPSG:32632"):
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    profile |= {"dtype": array.dtype, "crs": crs}
    profile["transform"] = Affine(pixel, 0, x, 0, -pixel, y)
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)
    return str(path)


def asked(run, out, **changes):
    values = {"kind": "generate", "run": str(run), "out": str(out), "target": ["LULC"], "steps": 2}
    return GenerateConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def s2():
    return np.random.default_rng(0).integers(1, 4000, (12, 55, 70)).astype(np.int16)


def test_maps_lie_where_the_sources_lie(run, s2, tmp_path):
    source = write_tif(tmp_path / "s2.tif", s2)
    truth = write_tif(tmp_path / "lulc.tif", np.full((1, 55, 70), 4, dtype=np.uint8))
    config = asked(run, tmp_path / "out", inputs={"S2L2A": source}, target=["DEM", "LULC"],
                   num_draws=3, chain=True, truth={"LULC": truth})  # fmt: skip
    assert generate(config) == 0
    with rasterio.open(tmp_path / "out/LULC.tif") as made, rasterio.open(source) as given:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        assert made.dtypes == ("uint8",)
        accuracy = (made.read() == 4).mean()
    with rasterio.open(tmp_path / "out/DEM.tif") as made:
        assert np.isfinite(made.read()).all()
    with rasterio.open(tmp_path / "out/DEM_spread.tif") as made:
        assert made.read().mean() > 0
    record = json.loads((tmp_path / "out/scores.json").read_text())
    assert record["scores"]["LULC"]["accuracy"]["model"] == pytest.approx(accuracy)
    assert (tmp_path / "out/sheet.png").stat().st_size > 5000


def test_how_windows_are_batched_and_a_repetition_change_nothing(run, s2, tmp_path):
    source = write_tif(tmp_path / "s2.tif", s2)
    found = []
    for number, batch in enumerate((1, 4, 4)):
        config = asked(run, tmp_path / str(number), inputs={"S2L2A": source}, batch=batch)
        generate(config)
        found.append((tmp_path / str(number) / "LULC.tif").read_bytes())
    assert found[0] == found[1] == found[2]


def test_arrays_without_a_place_give_arrays(run, s2, tmp_path):
    np.save(tmp_path / "s2.npy", s2)
    np.save(tmp_path / "dem.npy", np.full((55, 70), 300, dtype=np.int16))
    inputs = {"S2L2A": str(tmp_path / "s2.npy"), "DEM": str(tmp_path / "dem.npy")}
    generate(asked(run, tmp_path / "out", inputs=inputs, estimate="expected"))
    assert np.load(tmp_path / "out/LULC.npy").shape == (1, 55, 70)


def test_windows_without_a_measurement_stay_empty(run, s2, tmp_path):
    x = s2.copy()
    x[:, :, 40:] = modality("S2L2A").nodata
    source = write_tif(tmp_path / "s2.tif", x)
    generate(asked(run, tmp_path / "out", inputs={"S2L2A": source}, scene={"overlap": 0}))
    with rasterio.open(tmp_path / "out/LULC.tif") as made:
        classes = made.read(1)
        assert made.nodata == modality("LULC").nodata
    assert (classes[:, 48:] == modality("LULC").nodata).all()


def test_what_the_sources_do_not_show_is_no_mistake(run, s2, tmp_path):
    """Without a value of the registry for nothing, unseen ground is 255, and no class."""
    row = modality("OSMraster")
    assert row.nodata is None
    guess = np.array([[[3, 255], [1, 255]]], dtype=np.uint8)
    truth = np.array([[[3, 3], [2, 0]]], dtype=np.uint8)
    with (
        opened(Path(write_tif(tmp_path / "guess.tif", guess)), row) as a,
        opened(Path(write_tif(tmp_path / "truth.tif", truth)), row) as b,
    ):
        assert _score(a, b, row).values()["accuracy"] == 0.5


def test_heights_that_the_sources_do_not_show_are_no_mistake(run, s2, tmp_path):
    x = s2.copy()
    x[:, :, 40:] = modality("S2L2A").nodata
    source = write_tif(tmp_path / "s2.tif", x)
    truth = write_tif(tmp_path / "dem.tif", np.full((1, 55, 70), 300, dtype=np.int16))
    generate(asked(run, tmp_path / "out", inputs={"S2L2A": source}, target=["DEM"],
                   truth={"DEM": truth}, scene={"overlap": 0}))  # fmt: skip
    with rasterio.open(tmp_path / "out/DEM.tif") as made:
        heights = made.read()
    assert np.isnan(heights[..., 48:]).all()
    found = json.loads((tmp_path / "out/scores.json").read_text())["scores"]["DEM"]
    wanted = np.sqrt(np.nanmean((heights.astype(np.float64) - 300) ** 2))
    assert found["rmse"]["model"] == pytest.approx(wanted)


def test_degrees_are_taken_for_metres_where_the_map_lies(run, s2, tmp_path):
    fine, coarse = 10 / 111_320, 30 / 111_320
    for name, pixel, y in (("coarse", coarse, 0.1), ("north", fine, 60.0)):
        path = write_tif(tmp_path / f"{name}.tif", s2, x=9.0, y=y, pixel=pixel, crs="EPSG:4326")
        with pytest.raises(RunError, match=r"pixels are not 10 m; warp it .* in UTM"):
            generate(asked(run, tmp_path / name, inputs={"S2L2A": path}))
    path = write_tif(tmp_path / "fine.tif", s2, x=9.0, y=0.1, pixel=fine, crs="EPSG:4326")
    assert generate(asked(run, tmp_path / "fine", inputs={"S2L2A": path})) == 0


def test_guidance_that_a_model_was_not_trained_for_is_told(run, s2, tmp_path, capsys):
    source = write_tif(tmp_path / "s2.tif", s2)
    generate(asked(run, tmp_path / "a", inputs={"S2L2A": source}))
    assert "warning: guidance" not in capsys.readouterr().out
    with pytest.raises(RunError, match="num_registers"):
        generate(asked(run, tmp_path / "b", inputs={"S2L2A": source}, guidance=2.0))
    assert "train it with {kind: nothing}" in capsys.readouterr().out


def test_what_cannot_be_a_source_is_told(run, s2, tmp_path):
    few = write_tif(tmp_path / "few.tif", s2[:4])
    with pytest.raises(RunError, match="4 bands, S2L2A has 12"):
        generate(asked(run, tmp_path / "a", inputs={"S2L2A": few}))
    coarse = write_tif(tmp_path / "coarse.tif", s2, pixel=20.0)
    with pytest.raises(RunError, match="pixels are not 10 m"):
        generate(asked(run, tmp_path / "b", inputs={"S2L2A": coarse}))
    here, there = write_tif(tmp_path / "a.tif", s2), np.zeros((1, 55, 70), dtype=np.int16)
    away = write_tif(tmp_path / "dem.tif", there, x=600_000.0)
    with pytest.raises(ConfigError, match="do not show the same ground"):
        generate(asked(run, tmp_path / "c", inputs={"S2L2A": here, "DEM": away}))
    tiny = write_tif(tmp_path / "tiny.tif", s2[:, :20])
    with pytest.raises(ConfigError, match="smaller than a window"):
        generate(asked(run, tmp_path / "d", inputs={"S2L2A": tiny}))
    with pytest.raises(ConfigError, match="the model generates DEM, LULC; did you mean LULC"):
        generate(asked(run, tmp_path / "e", inputs={"S2L2A": here}, target=["LUCL"]))
    with pytest.raises(ConfigError, match="target S1GRD: the model generates DEM, LULC"):
        generate(asked(run, tmp_path / "f", inputs={"S2L2A": here}, target=["S1GRD"]))


def test_the_command_line_names_sources_targets_and_files(run, s2, tmp_path):
    from pipeline.__main__ import main

    source = write_tif(tmp_path / "s2.tif", s2)
    code = main(
        ["generate", "--run", str(run), "--input", f"S2L2A={source}", "--to", "LULC",
         "--out", str(tmp_path / "out"), "steps=1"]
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "out/LULC.tif").is_file()
    assert main(["generate", "--run", str(run), "--input", "S2L2A", "--to", "LULC"]) == 2
