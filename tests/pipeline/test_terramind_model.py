"""Importing a published model: its streams, its layout, and what is refused.

Numbers are compared with the public modules in tests/extra.
"""

from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from configs import ConfigError
from pipeline.__main__ import main
from pipeline.engine.errors import RunError
from pipeline.stage2 import artifact
from pipeline.stage2.terramind import import_model

WIDTH, HIDDEN = 64, 170
GRID, TEXT = 4, 512
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def norms(name: str, *parts: str) -> Shapes:
    for part in parts:
        yield f"{name}.{part}.weight", (WIDTH,)
        yield f"{name}.{part}.bias", (WIDTH,)


def block(name: str, attentions: dict[str, int]) -> Shapes:
    """Gated MLP, no biases but the zeros of norms."""
    yield from norms(name, "norm1", "norm2")
    for part, factor in attentions.items():
        yield f"{name}.{part}.weight", (factor * WIDTH, WIDTH)
    yield f"{name}.mlp.fc1.weight", (HIDDEN, WIDTH)
    yield f"{name}.mlp.fc2.weight", (WIDTH, HIDDEN)
    yield f"{name}.mlp.fc3.weight", (HIDDEN, WIDTH)


def embedding(side: str, name: str, count: int, part: str, rows: int) -> Shapes:
    stem = f"{side}_embeddings.{name}"
    yield f"{stem}.mod_emb", (1, 1, WIDTH)
    yield f"{stem}.pos_emb", (1, count, WIDTH)
    yield f"{stem}.{part}.weight", (WIDTH, rows) if part == "proj" else (rows, WIDTH)
    if side == "decoder":
        yield f"{stem}.to_logits.weight", (rows, WIDTH)


def published(*names: str, codes: int = 11) -> dict[str, Tensor]:
    """A state dict of one block on either side, S2L2A pixels, and tokens of the names."""
    shapes = dict(embedding("encoder", "untok_sen2l2a@224", GRID**2, "proj", 12 * 16**2))
    for name in ("tok_dem@224", "caption", *names):
        count, rows = (GRID**2, codes) if "@" in name else (TEXT, 13)
        for side in ("encoder", "decoder"):
            shapes |= dict(embedding(side, name, count, "token_emb", rows))
    shapes |= dict(block("encoder.0", {"attn.qkv": 3, "attn.proj": 1}))
    parts = {"self_attn.qkv": 3, "self_attn.proj": 1, "cross_attn.q": 1}
    shapes |= dict(block("decoder.0", {**parts, "cross_attn.kv": 2, "cross_attn.proj": 1}))
    shapes |= dict(norms("decoder.0", "query_norm", "context_norm"))
    for name in ("encoder_norm", "decoder_norm"):
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    shapes |= {"decoder_proj_context.weight": (WIDTH, WIDTH), "mask_token": (1, 1, WIDTH)}
    shapes |= {"decoder_proj_context.bias": (WIDTH,)}
    generator = torch.Generator().manual_seed(0)
    made = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    for key in made:
        if "norm" in key and key.endswith(".bias"):
            made[key].zero_()
        if key.startswith("decoder_emb"):
            twin = key.replace("decoder", "encoder")
            made[key] = made[twin].clone() if key.endswith(("mod_emb", "pos_emb")) else made[key]
        if key.endswith("to_logits.weight"):
            made[key] = made[key.replace("to_logits", "token_emb")].clone()
    return made


def test_streams_and_shape_are_read_from_the_weights():
    state = published("coords", "tok_lulc@224")
    found = import_model(state)
    config, streams = found.config, found.layout.streams
    names = ["S2L2A@px", "DEM@tok", "LULC@tok", "captions@tok", "coordinates@tok"]
    assert [s.name for s in streams] == names
    assert (config.width, config.heads, config.encoder_depth, config.decoder_depth) == (64, 1, 1, 1)
    assert (config.mlp, config.bias, config.norm_bias, config.mlp_ratio) == (
        "swiglu",
        False,
        False,
        4.0,
    )
    assert [s.num_positions for s in streams] == [16, 16, 16, 256, 4]
    assert (streams[0].patch_px, streams[0].patch_m, found.layout.window_m) == (16, 160.0, 640.0)
    assert len(found.report.loaded) + len(found.report.computed) == len(state)
    assert "norm1.bias" in " ".join(found.report.computed)


def test_codes_of_either_side_and_positions_lie_in_the_rows_of_their_stream():
    state = published()
    found = import_model(state)
    stream = found.layout.streams[found.layout.index("captions@tok")]
    for table, side in (("code_embed", "encoder"), ("target_embed", "decoder")):
        expected = state[f"{side}_embeddings.caption.token_emb.weight"]
        assert torch.equal(found.weights[f"{table}.weight"][stream.codes], expected)
    expected = state["encoder_embeddings.caption.pos_emb"][0, :256]
    assert torch.equal(found.weights["positions.table"][stream.places], expected)


def test_what_no_side_uses_is_zero():
    state = published("tok_lulc@224")
    state = {k: v for k, v in state.items() if not k.startswith("encoder_embeddings.tok_lulc")}
    found = import_model(state)
    stream = found.layout.streams[found.layout.index("LULC@tok")]
    assert stream.is_target
    assert not stream.is_input
    assert not found.weights["code_embed.weight"][stream.codes].any()
    assert found.weights["target_embed.weight"][stream.codes].any()


def test_modalities_that_the_registry_lacks_are_listed_mapped_or_left_out():
    state = published("tok_clip@224", "det", "tok_chm@224")
    with pytest.raises(RunError, match=r"the registry has no det, tok_clip@224; say which"):
        import_model(state)
    found = import_model(state, renamed={"tok_clip@224": "NDVI"}, without=("det",))
    assert {"NDVI@tok", "CHM@tok"} < {s.name for s in found.layout.streams}
    with pytest.raises(RunError, match="are both DEM; leave one out"):
        import_model(published("tok_clip@224"), renamed={"tok_clip@224": "DEM"})
    with pytest.raises(ConfigError, match="unknown modality 'Dem'"):
        import_model(published("tok_clip@224"), renamed={"tok_clip@224": "Dem"})


def test_what_does_not_fit_is_named():
    state = published()
    del state["decoder.0.cross_attn.kv.weight"]
    with pytest.raises(RunError, match=r"missing: decoder\.0\.cross_attn\.kv\.weight$"):
        import_model(state)
    with pytest.raises(RunError, match=r"unexpected: encoder\.0\.gate\.weight$"):
        import_model(published() | {"encoder.0.gate.weight": torch.zeros(1)})
    with pytest.raises(RunError, match="no whole model of TerraMind or 4M"):
        import_model({k: v for k, v in published().items() if not k.startswith("decoder.")})
    with pytest.raises(RunError, match="has no encoder_embeddings"):
        import_model({"layer.weight": torch.zeros(1)})
    other = {"encoder_embeddings.untok_sen2l2a@224.proj.weight": torch.zeros(WIDTH, 5 * 256)}
    with pytest.raises(RunError, match="1280 values, no square patches of the 12 bands of S2L2A"):
        import_model(published() | other)


@pytest.mark.parametrize("part", ["to_logits.weight", "mod_emb", "pos_emb"])
def test_tables_that_ours_shares_have_to_be_equal(part):
    state = published()
    state[f"decoder_embeddings.tok_dem@224.{part}"] += 1
    with pytest.raises(RunError, match=rf"decoder_embeddings\.tok_dem@224\.{part} is not"):
        import_model(state)


def test_norms_with_biases_keep_them():
    state = published()
    state["encoder_norm.bias"] += 1
    found = import_model(state)
    assert found.config.norm_bias
    assert torch.equal(found.weights["encoder_norm.bias"], state["encoder_norm.bias"])


def test_a_window_of_another_size_is_told():
    found = import_model(published(), window_m=320)
    assert found.layout.window_m == 320
    assert {s.patch_m for s in found.layout.streams if s.grid} == {80.0}


@pytest.mark.parametrize("form", ["pt", "checkpoint", "safetensors"])
def test_a_file_becomes_an_artifact_from_the_command_line(form, tmp_path, capsys):
    state, path = published(), tmp_path / f"TerraMind.{'safetensors' if form[0] == 's' else 'pt'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 3} if form == "checkpoint" else state, path)
    argv = ["import-model", str(path), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert "tensors loaded" in capsys.readouterr().out
    model, normalisers = artifact.load(tmp_path / "out" / "artifact")
    assert normalisers["S2L2A"].statistics.mean[0] == pytest.approx(1390.458)
    assert torch.equal(
        model.state_dict()["encoder.0.attn.qkv.weight"], state["encoder.0.attn.qkv.weight"]
    )
    assert main(argv) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_the_command_line_tells_what_it_cannot_do(tmp_path, capsys):
    torch.save(published("tok_clip@224"), tmp_path / "m.pt")
    argv = ["import-model", str(tmp_path / "m.pt"), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "(--rename tok_clip@224=NAME)" in capsys.readouterr().err
    assert main([*argv, "--rename", "tok_clip@224"]) == 2
    assert "--rename takes NAME=MODALITY" in capsys.readouterr().err
    assert main([*argv, "--without", "tok_clip@224", "--statistics", "synthetic-v2"]) == 2
    assert "no statistics set" in capsys.readouterr().err
    torch.save({"weights": 1}, tmp_path / "no.pt")
    assert main(["import-model", str(tmp_path / "no.pt"), "--out", str(tmp_path / "out")]) == 2
    assert "is no state dict" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
