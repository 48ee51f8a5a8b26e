"""What docs/models.md shows works as it is written there."""

import re
from typing import Any

import pytest
import torch
import yaml

from configs.registry import modality, statistics_set
from configs.schema import MaskedConfig
from pipeline.__main__ import main
from pipeline.data.transforms import Normaliser
from pipeline.stage2 import artifact
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.terramind import import_model
from pipeline.stage2.warm_start import plan_start, warm_start
from tests.pipeline.test_terramind_model import published


@pytest.fixture
def shown(root) -> dict[str, list[str]]:
    """Blocks of code by language, in order."""
    text = (root / "docs" / "models.md").read_text()
    found: dict[str, list[str]] = {}
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        found.setdefault(language, []).append(block)
    return found


def commands(block: str) -> list[list[str]]:
    return [line.split("#")[0].split()[3:] for line in block.splitlines()]


@torch.no_grad()
def test_import_export_and_the_encoder(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = published()
    dem = state["encoder_embeddings.untok_sen2l2a@224.proj.weight"][:, :256].clone()
    for part in ("mod_emb", "pos_emb"):
        twin = state[f"encoder_embeddings.caption.{part}"][:, :16]
        state[f"encoder_embeddings.untok_dem@224.{part}"] = twin
    state["encoder_embeddings.untok_dem@224.proj.weight"] = dem
    torch.save(state, "TerraMind_v1_base.pt")
    (first,) = commands(shown["bash"][0])
    assert main(first) == 0
    export, graph = commands(shown["bash"][1])
    assert "--onnx" in graph
    assert main([a.replace("runs/stage2", "runs/terramind-base") for a in export]) == 0
    given: dict[str, Any] = {
        "s2l2a": torch.rand(2, 12, 64, 64) * 3000,
        "dem": torch.rand(2, 1, 64, 64) * 900,
    }
    exec(shown["python"][0], given)
    assert given["features"][-1]["DEM"].shape == (2, 16, 64)
    assert given["last"].shape == (2, 16, 64)


def test_the_configuration_goes_on_from_a_model_of_that_shape(shown, tmp_path):
    (block,) = shown["yaml"]
    values = yaml.safe_load(block)["masked"]
    config = MaskedConfig.model_validate({**values, "targets": ["DEM"]})
    imported = import_model(published())
    # The shape of the example is TerraMind-base's; the one at hand is smaller and otherwise alike.
    names = ("width", "heads", "encoder_depth", "decoder_depth")
    small = {k: getattr(imported.config, k) for k in names}
    model = MaskedTransformer(imported.layout, imported.config)
    model.load_state_dict(imported.weights)
    row = modality("S2L2A")
    normaliser = Normaliser(row, statistics_set("terramind-v1")["S2L2A"])
    artifact.save(model, {"S2L2A": normaliser}, tmp_path / "artifact")
    config = config.model_copy(update=small)
    start = plan_start(tmp_path, imported.layout, config, {"S2L2A": row})
    warm_start(MaskedTransformer(imported.layout, config), start)
    assert not start.fresh
