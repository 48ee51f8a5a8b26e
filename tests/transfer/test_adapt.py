"""Bands by name, sizes, statistics; what the data lacks is the mean, never a zero."""

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.registry import BandStatistics, modality
from pipeline.transfer.adapt import Adapter, band_statistics, mapped
from pipeline.transfer.backbone import Intake, fitting_window, spread_layers
from pipeline.transfer.bands import band_key, map_bands, meanings
from shards.sources.own_rows import image_row

INTAKE = Intake(("B02", "B08", "B8A"), (100.0, 200.0, 300.0), (10.0, 20.0, 30.0), 10.0, 4)


def row(*bands):
    return image_row("S2L2A", "", bands, np.dtype(np.float32), 10.0)


def test_one_band_has_many_names():
    for names in (
        ("B08", "B8", "8", "08 - NIR"),
        ("B8A", "08A - Vegetation Red Edge"),
        ("Red", "red"),
    ):
        assert len({band_key(name) for name in names}) == 1
    assert band_key("B08") != band_key("B8A")
    assert band_key("vv") != band_key("vh")


def test_bands_are_found_in_any_order_with_some_missing_and_some_too_many():
    found = map_bands(("B8A", "B10", "02 - Blue"), INTAKE.bands)
    assert found.source == (2, -1, 0)
    assert found.missing == ("B08",)
    assert found.extra == ("B10",)


S2 = modality("S2L2A").bands
# As GEO-Bench calls them: m-eurosat's, and those of a Landsat task.
GEOBENCH_S2 = (
    "01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - Vegetation Red Edge",
    "06 - Vegetation Red Edge", "07 - Vegetation Red Edge", "08 - NIR", "08A - Vegetation Red Edge",
    "09 - Water vapour", "10 - SWIR - Cirrus", "11 - SWIR", "12 - SWIR",
)  # fmt: skip
GEOBENCH_LANDSAT = (
    "01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - NIR", "06 - SWIR1",
    "07 - SWIR2", "08 - Panchromatic", "09 - Cirrus", "10 - Tirs1",
)  # fmt: skip


def test_names_of_geobench_are_the_bands_of_sentinel2():
    l1c = modality("S2L1C").bands
    found = map_bands(GEOBENCH_S2, l1c, None, ("S2L1C", "S2L1C"))
    assert not found.missing
    assert not found.denied
    names = [f"B{GEOBENCH_S2[i].split(' - ')[0]}" for i in found.source]
    assert [name.replace("B08A", "B8A") for name in names] == list(l1c)
    for name in GEOBENCH_S2:
        assert meanings(name, "S2L1C") & meanings(name[:3].strip(" -"), "S2L1C"), name


@pytest.mark.parametrize("have", [GEOBENCH_LANDSAT, modality("Landsat").bands])
def test_a_number_that_means_another_band_of_the_sensor_is_no_match(have):
    """B5 of Landsat is NIR and B6 SWIR, red edge of Sentinel-2: nothing is shown as what it is not."""
    found = map_bands(have, S2, None, ("Landsat8", "S2L2A"))
    taken = {band: have[i] for band, i in zip(S2, found.source, strict=True) if i >= 0}
    assert taken == dict(zip(("B01", "B02", "B03", "B04"), have[:4], strict=True))
    assert any(x.startswith(have[4]) for x in found.denied)
    assert any("is no B05 (red edge)" in x for x in found.denied)
    told = {"B8A": have[4], "B11": have[5], "B12": have[6]}
    found = map_bands(have, S2, told, ("Landsat8", "S2L2A"))
    for band, name in told.items():
        assert have[found.source[S2.index(band)]] == name
    assert found.source[S2.index("B05")] == -1
    assert not any(x.startswith(have[4]) for x in found.denied)


@pytest.mark.parametrize(
    ("want", "name", "red"), [(S2, "S2L2A", "B04"), (modality("Landsat").bands, "Landsat", "B4"),
                              (modality("S2RGB").bands, "S2RGB", "R")],
)  # fmt: skip
def test_colours_of_aerial_images_are_those_of_the_sensor(want, name, red):
    found = map_bands(("Red", "Green", "Blue"), want, None, ("image", name))
    assert found.source[want.index(red)] == 0
    assert not found.extra
    with pytest.raises(ConfigError, match="no band in common"):
        map_bands(("Red", "Green", "Blue"), ("vv", "vh"), None, ("image", "S1GRD"))


def test_a_map_of_bands_wins_and_its_names_must_be_there():
    adapter = Adapter(row("B08", "x", "B02"), INTAKE, None, "S2L2A", {"B8A": "x", "B2": "B08"})
    assert adapter.bands.source == (0, -1, 1)
    for wrong in ({"B8A": "y"}, {"B99": "x"}):
        with pytest.raises(ConfigError, match="there is no band"):
            Adapter(row("B08", "x"), INTAKE, None, "S2L2A", wrong)


def test_a_band_that_is_missing_is_the_mean():
    adapter = Adapter(row("B8A", "B10", "B02"), INTAKE, None)
    part = np.stack([np.full((4, 4), v) for v in (1.0, 2.0, 3.0)])
    found = adapter(part, (40.0, 40.0))
    assert found[:, 0, 0].tolist() == [3.0, 200.0, 1.0]
    assert "B08 missing" in adapter.note()
    assert "B10 left out" in adapter.note()


def test_nothing_in_common_and_a_name_twice_are_refused():
    with pytest.raises(ConfigError, match="no band in common: the data has red"):
        Adapter(row("red", "green"), INTAKE, None)
    with pytest.raises(ConfigError, match="B8 and B08 have the same name"):
        map_bands(("B8", "B08"), INTAKE.bands)


def test_pixels_without_a_measurement_stay_so_at_any_size():
    s2 = modality("S2L2A")
    intake = Intake(s2.bands, (1000.0,) * 12, (10.0,) * 12, 10.0, 4)
    part = np.full((12, 8, 8), 500, dtype=np.int16)
    part[3, :4, :4] = 0
    for side in (8, 4, 16):
        found = Adapter(s2, intake, None)(part, (side * 10.0, side * 10.0))
        assert found.shape == (12, side, side)
        gap = found.isnan().all(0)
        assert gap[: side // 2, : side // 2].all()
        assert gap.sum() == (side // 2) ** 2
        assert torch.allclose(found[0, side // 2 + 2 :], torch.tensor(500.0))


def test_the_statistics_of_the_task_become_those_of_the_backbone():
    rng = np.random.default_rng(0)
    parts = [rng.normal(7, 2, (3, 8, 8)).astype(np.float32) for _ in range(4)]
    own = band_statistics(row(*INTAKE.bands), parts)
    adapter = Adapter(row(*INTAKE.bands), INTAKE, own)
    found = torch.stack([adapter(part, (80.0, 80.0)) for part in parts])
    assert torch.allclose(found.mean((0, 2, 3)), torch.tensor(INTAKE.mean), rtol=1e-4)
    assert torch.allclose(found.std((0, 2, 3), correction=0), torch.tensor(INTAKE.std), rtol=1e-4)


def test_statistics_count_only_what_was_measured():
    part = np.array([[[2.0, np.nan], [4.0, np.nan]]])
    assert band_statistics(row("B02"), [part]) == BandStatistics((3.0,), (1.0,))
    with pytest.raises(ConfigError, match="no training sample"):
        band_statistics(row("B02"), [part * np.nan])


def test_a_window_is_whole_patches_of_every_modality():
    coarse = Intake(("B1",), (0.0,), (1.0,), 30.0, 2)
    assert fitting_window((470.0, 250.0), {"a": INTAKE, "b": coarse}) == (480.0, 240.0)
    assert fitting_window((10.0, 10.0), {"a": INTAKE}) == (40.0, 40.0)


def test_layers_are_spread_and_end_with_the_last():
    assert spread_layers(12, 4) == [2, 5, 8, 11]
    assert spread_layers(3, 4) == [0, 1, 2]
    assert spread_layers(1, 4) == [0]


def test_two_modalities_cannot_become_one():
    rows = {"S2L1C": row("B02"), "S2L2A": row("B02")}
    assert mapped({"S2L1C": row("B02")}, {"S2L1C": "S2L2A"}) == {"S2L1C": "S2L2A"}
    with pytest.raises(ConfigError, match="S2L1C and S2L2A both S2L2A"):
        mapped(rows, {"S2L1C": "S2L2A"})
    with pytest.raises(ConfigError, match="modality_map names DEM"):
        mapped(rows, {"DEM": "S2L2A"})
