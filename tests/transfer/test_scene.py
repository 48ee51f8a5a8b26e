"""A trained model over a scene: what it learned, without seams, on the same ground, in little memory."""

import numpy as np
import pytest
import rasterio

from configs import ConfigError
from configs.registry import modality
from pipeline.__main__ import main
from pipeline.data.transforms import measured_pixels
from pipeline.engine.errors import RunError
from pipeline.transfer.masked import measured_raster
from pipeline.transfer.run import transfer
from pipeline.transfer.saved import load_model
from pipeline.transfer.scene import predict_scene
from tests.transfer.test_run import made  # noqa: F401
from tests.transfer.worlds import CPU, save_stage2, write_tif


@pytest.fixture
def model(made, request):  # noqa: F811
    """A folder of a trained model: probe by default."""
    protocol = getattr(request, "param", "probe")
    config = made(protocols=[protocol], keep_models=True)
    transfer(config)
    (folder,) = (config.out / "models").iterdir()
    return folder


def scene(folder, height=50, width=70, nodata=None):
    """Two materials side by side, as the model learned them; a corner is not measured."""
    rng = np.random.default_rng(5)
    where = np.zeros((height, width), dtype=bool)
    where[:, width // 2 :] = True
    image = rng.normal(100, 20, (4, height, width)).astype(np.float32)
    image[3] += 200 * where
    if nodata is not None:
        image[:, :18, :18] = nodata
    return write_tif(folder / "scene.tif", image, nodata), where


@pytest.mark.parametrize("model", ["probe", "finetune"], indirect=True)
def test_a_scene_is_mapped_on_its_own_ground(model, tmp_path):
    path, where = scene(tmp_path, nodata=-1.0)
    out = tmp_path / "map.tif"
    arguments = ["--model", str(model), "--input", f"S2={path}", "--out", str(out)]
    assert main(["predict", *arguments]) == 0
    with rasterio.open(path) as source, rasterio.open(out) as file:
        assert (file.crs, file.transform, file.shape) == (
            source.crs, source.transform, source.shape,
        )  # fmt: skip
        found = file.read(1)
        # No class of this label means that there is none: the file says which value does.
        assert file.nodata == 255
    measured = np.ones_like(where)
    measured[:18, :18] = False
    assert (found[measured] == where[measured]).mean() > 0.85
    assert (found[:17, :17] == 255).all()
    assert (found[measured] != 255).all()
    assert not list(tmp_path.glob("*.partial"))


def test_the_result_does_not_depend_on_the_batch(model, tmp_path):
    path, _ = scene(tmp_path)
    loaded, maps = load_model(model, CPU), []
    for batch in (1, 7):
        predict_scene(loaded, {"S2": path}, tmp_path / f"{batch}.tif", batch=batch)
        with rasterio.open(tmp_path / f"{batch}.tif") as file:
            maps.append(file.read(1))
    assert (maps[0] == maps[1]).mean() > 0.999
    predict_scene(loaded, {"S2": path}, tmp_path / "again.tif", batch=7)
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "7.tif").read_bytes()


def test_a_saved_model_predicts_as_it_did(made, tmp_path):  # noqa: F811
    """Of one window without overlap: what the fit's own head says of it."""
    import torch

    config = made(keep_models=True)
    transfer(config)
    (folder,) = (config.out / "models").iterdir()
    loaded = load_model(folder, CPU)
    source = tmp_path / "data" / "i3.tif"
    predict_scene(loaded, {"S2": source}, tmp_path / "one.tif", overlap=0)
    with rasterio.open(source) as file:
        image = loaded.adapters["S2"](file.read(), (160.0, 160.0))[None]
    maps = loaded.backbone({"S2": image}, {"S2": torch.tensor([True])}, loaded.layers)
    wanted = loaded.head(maps, (16, 16)).argmax(1)[0]
    with rasterio.open(tmp_path / "one.tif") as file:
        assert np.array_equal(file.read(1), wanted.numpy())
    with np.load(next((config.out / "sheets").iterdir())) as sheet:
        place = sheet["keys"].tolist().index("i3.tif")
        assert np.array_equal(sheet["predicted"][place, 0], wanted.numpy())


@pytest.mark.parametrize("window_m", [320.0, 80.0, 150.0])
def test_a_scene_is_shown_at_the_scale_of_training(made, tmp_path, window_m):  # noqa: F811
    """Samples of 160 m that were shown as another ground: what predict says is what transfer said."""
    config = made(keep_models=True)
    task = config.tasks["masks"].model_copy(update={"window_m": window_m})
    config = config.model_copy(update={"tasks": {"masks": task}})
    transfer(config)
    (folder,) = (config.out / "models").iterdir()
    loaded = load_model(folder, CPU)
    assert loaded.ground_m == (160.0, 160.0)
    with np.load(next((config.out / "sheets").iterdir())) as sheet:
        for key, wanted in zip(sheet["keys"].tolist(), sheet["predicted"], strict=True):
            predict_scene(loaded, {"S2": tmp_path / "data" / key}, tmp_path / "one.tif", overlap=0)
            with rasterio.open(tmp_path / "one.tif") as file:
                assert np.array_equal(file.read(1), wanted[0])
    if window_m == 320:
        path, _ = scene(tmp_path)
        predict_scene(loaded, {"S2": path}, tmp_path / "small.tif", window_m=80)
        with pytest.raises(ConfigError, match="not a multiple of the backbone's patches of 20 m"):
            predict_scene(loaded, {"S2": path}, tmp_path / "x.tif", window_m=70)


@pytest.mark.parametrize("gsd", [0.2, 0.3])
@pytest.mark.parametrize(("height", "width"), [(50, 70), (64, 123)])
def test_images_of_small_pixels_are_mapped_without_gaps(made, tmp_path, gsd, height, width):  # noqa: F811
    """Samples of 3 to 5 m, as aerial images have them, and scenes that are no multiple of 60 m."""
    config = made(keep_models=True)
    task = config.tasks["masks"].model_dump()
    task["data"]["images"]["image"]["gsd_m"] = gsd
    for path in (tmp_path / "data").glob("*.tif"):
        pixels_of(path, gsd)
    task["window_m"] = 160
    transfer(made(keep_models=True, tasks={"masks": task}))
    (folder,) = (config.out / "models").iterdir()
    path, where = scene(tmp_path, height, width)
    pixels_of(path, gsd)
    predict_scene(load_model(folder, CPU), {"S2": path}, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        found = file.read(1)
        assert file.shape == (height, width)
    assert (found != 255).all()
    assert (found == where).mean() > 0.85


def pixels_of(path, gsd):
    from rasterio.transform import Affine

    with rasterio.open(path, "r+") as file:
        file.transform = Affine(gsd, 0, 500_000, 0, -gsd, 5_600_000)


def test_what_training_was_told_is_no_measurement_is_none_in_a_scene(made, tmp_path):  # noqa: F811
    """The scene's file does not say so itself."""
    config = made(keep_models=True)
    task = config.tasks["masks"].model_dump()
    task["data"]["images"]["image"]["nodata"] = -1.0
    transfer(made(keep_models=True, tasks={"masks": task}))
    (folder,) = (config.out / "models").iterdir()
    maps = []
    for told in (-1.0, None):
        path, _ = scene(tmp_path, nodata=-1.0)
        with rasterio.open(path, "r+") as file:
            file.nodata = told
        predict_scene(load_model(folder, CPU), {"S2": path}, tmp_path / "map.tif")
        with rasterio.open(tmp_path / "map.tif") as file:
            maps.append(file.read(1))
    assert (maps[0][:17, :17] == 255).all()
    assert np.array_equal(*maps)


@pytest.mark.parametrize("told_by", ["nodata", "mask", "task"])
def test_a_file_tells_what_was_measured_where_its_modality_cannot(tmp_path, told_by):
    """Zeros of an 8-bit image may be black; the file's own nodata, or mask, says which are nothing."""
    row = modality("S2RGB")
    assert row.nodata is None
    image = np.full((3, 20, 20), 7, dtype=np.uint8)
    image[:, :5, :6] = 0
    path = write_tif(tmp_path / "rgb.tif", image, 0 if told_by == "nodata" else None)
    if told_by == "mask":
        with rasterio.open(path, "r+") as file:
            file.write_mask((image[0] > 0).astype(np.uint8) * 255)
    with measured_raster(path, row, 0 if told_by == "task" else None) as raster:
        found = measured_pixels(raster.read(-2, 3, 10, 20), row)
    wanted = np.zeros((10, 20), dtype=bool)
    wanted[2:, :17] = image[0, :8, 3:] > 0
    assert np.array_equal(found, wanted)


def test_what_cannot_be_mapped_is_told(model, tmp_path, made, capsys):  # noqa: F811
    path, _ = scene(tmp_path)
    loaded = load_model(model, CPU)
    with pytest.raises(ConfigError, match="DEM: the model takes S2"):
        predict_scene(loaded, {"DEM": path}, tmp_path / "x.tif")
    with pytest.raises(ConfigError, match="not a multiple of the backbone's patches of 40 m"):
        predict_scene(loaded, {"S2": path}, tmp_path / "x.tif", window_m=170)
    for none in (0.0, -80.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="write the side of a window in metres, above 0"):
            predict_scene(loaded, {"S2": path}, tmp_path / "x.tif", window_m=none)
    arguments = ["--model", str(model), "--input", f"S2={path}", "--out", str(tmp_path / "x.tif")]
    assert main(["predict", *arguments, "--window", "0"]) == 2
    assert "--window 0: write the side" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="write --window with a smaller one"):
        predict_scene(loaded, {"S2": path}, tmp_path / "x.tif", window_m=800)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(RunError, match="no raster that can be read"):
        predict_scene(loaded, {"S2": tmp_path / "broken.tif"}, tmp_path / "x.tif")
    assert main(["predict", "--model", str(model), "--input", "S2", "--out", "x.tif"]) == 2
    assert "--input takes MODALITY=FILE" in capsys.readouterr().err
    with pytest.raises(RunError, match="write keep_models=true"):
        load_model(tmp_path, CPU)
    save_stage2(tmp_path / "run", seed=9)
    with pytest.raises(RunError, match="is not the one that"):
        load_model(model, CPU)
    assert not (tmp_path / "x.tif").exists()
