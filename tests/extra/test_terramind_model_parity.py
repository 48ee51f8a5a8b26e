"""Our transformer with TerraMind's weights against the public model: features, logits, losses."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.registry import BandStatistics, modality
from configs.schema.transformer import SHAPES
from pipeline.data.tokens import BOS
from pipeline.data.transforms import Normaliser
from pipeline.engine.foreign import fill
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate
from pipeline.stage2.terramind import Imported, import_model
from tests.extra.conftest import RunPublic

pytestmark = pytest.mark.terratorch

NAMES = {"caption": "captions@tok", "coords": "coordinates@tok"}
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def public(run_public: RunPublic) -> dict[str, Any]:
    """What `public_terramind_model.py` wrote."""
    return run_public("public_terramind_model.py")


@pytest.fixture(scope="module", params=["gated", "plain"])
def case(request: pytest.FixtureRequest, public: dict[str, Any]) -> dict[str, Any]:
    """One style: what they computed, and our model with those weights."""
    found = public[request.param]
    imported = import_model(found["state"])
    model = MaskedTransformer(imported.layout, imported.config).eval()
    fill(model, imported.weights, "TerraMind's weights")
    return {**found, "model": model, "imported": imported}


def name_of(theirs: str) -> str:
    stem = theirs.split("@")[0].replace("sen", "s").upper()
    return NAMES.get(theirs) or stem.replace("UNTOK_", "").replace("TOK_", "") + (
        "@px" if theirs.startswith("untok") else "@tok"
    )


def values(case: dict[str, Any], theirs: str, sample: int) -> np.ndarray:
    """What a sample has of a modality as our batches want it: patches [N, p*p*C] or codes [N]."""
    x = case["inputs"][theirs][sample].numpy()
    if x.ndim < 3:
        return x.flatten()
    c, h, w = x.shape
    return x.reshape(c, h // 16, 16, w // 16, 16).transpose(1, 3, 2, 4, 0).reshape(196, -1)


def batch_of(
    case: dict[str, Any], sources: list[str], targets: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """A batch that asks for whole modalities; sequences start with the token that theirs start with."""
    layout, samples = case["imported"].layout, []
    for sample in range(2):
        streams = {layout.index(name_of(k)): values(case, k, sample) for k in sources}
        inputs = {i: np.arange(len(v)) for i, v in sorted(streams.items())}
        wanted = {layout.index(name_of(k)): values(case, k, sample) for k in targets}
        for i, codes in wanted.items():
            if layout.streams[i].kind == "sequence":
                assert codes[0] == BOS
                wanted[i] = codes[1:]
        places = {i: np.arange(len(v)) for i, v in wanted.items()}
        samples.append(Masked(Content({**streams, **wanted}), Selection(inputs, places)))
    counts = [sum(map(len, p.values())) for p in (samples[0].selection.inputs, places)]
    return collate(samples, layout, counts[0], max(1, counts[1]))


@torch.no_grad()
def test_every_modality_and_mixtures_are_encoded_alike(case):
    model, layout = case["model"], case["imported"].layout
    caught: list[Tensor] = []
    model.encoder_norm.register_forward_hook(lambda *a: caught.append(a[2]))
    for sources, expected in case["features"]:
        model.encode(batch_of(case, sources))
        # Theirs in the order given, ours in that of the streams.
        sizes = [len(values(case, k, 0)) for k in sources]
        parts = dict(zip(sources, expected.split(sizes, 1), strict=True))
        ordered = sorted(sources, key=lambda k: layout.index(name_of(k)))
        expected = torch.cat([parts[k] for k in ordered], 1)
        close(caught.pop(), expected)
        assert expected.std() > 0.5


@torch.no_grad()
def test_every_target_is_decoded_alike(case):
    model, layout = case["model"], case["imported"].layout
    assert len(case["logits"]) == 7
    for target, (sources, expected) in case["logits"].items():
        batch = batch_of(case, sources, (target,))
        features = model.decode(batch, model.encode(batch))
        logits = model.logits(features, layout.index(name_of(target)))
        close(logits, expected)
        assert expected.std() > 0.1


@torch.no_grad()
def test_several_targets_at_once_have_the_same_losses(case):
    sources, losses = case["losses"]
    sums = case["model"](batch_of(case, sources, tuple(losses))).sums
    for theirs, expected in losses.items():
        name = name_of(theirs)
        found = sums[f"ce/{name}"] / sums[f"tokens/{name}"]
        close(found, expected.squeeze())


@torch.no_grad()
def test_the_encoder_is_their_backbone(case, tmp_path):
    imported: Imported = case["imported"]
    # What they are given is normalised already.
    rows = {
        n: Normaliser(
            modality(n), BandStatistics(*[(v,) * modality(n).num_bands for v in (0.0, 1.0)])
        )
        for n in imported.config.pixels
    }
    artifact.save(case["model"], rows, tmp_path / "artifact")
    encoder = Encoder.from_pretrained(tmp_path, ["S2L2A", "DEM"])
    public, given = case["backbone"], case["inputs"]
    images = {"S2L2A": given["untok_sen2l2a@224"], "DEM": given["untok_dem@224"]}
    for how, x in (("mean", images), ("max", images), ("mean_larger", public["larger"])):
        found = encoder(x, merge=how.removesuffix("_larger"))
        assert len(found) == len(public[how])
        for ours, theirs in zip(found, public[how], strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_the_released_shapes_are_known(public, size):
    shapes = public["released"][size]
    # No memory: what has to be equal or zero is, by construction.
    state = {k: torch.zeros(()).expand(shape) for k, shape in shapes.items()}
    imported = import_model(state)
    report, config = imported.report, imported.config
    assert len(report.loaded) + len(report.computed) == len(shapes)
    named = SHAPES[f"terramind-{size}"]
    assert {k: getattr(config, k) for k in named} == named
    assert (config.norm_eps, config.norm_bias, config.mlp_ratio) == (1e-6, False, 4.0)
    assert imported.layout.window_m == 2240
    sizes = {s.name: s.vocab_size for s in imported.layout.streams}
    assert (sizes["S2L2A@tok"], sizes["LULC@tok"], sizes["captions@tok"]) == (15360, 4375, 30000)
    with torch.device("meta"):
        model = MaskedTransformer(imported.layout, config)
    own = {k: v.shape for k, v in model.state_dict().items()}
    assert own == {k: v.shape for k, v in imported.weights.items()}
