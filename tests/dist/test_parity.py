"""However a run is cut up, it is the same run: losses of real training with missing modalities."""

import pytest

from tests.dist.runs import curve, run_several

pytestmark = pytest.mark.dist

ENGINES = {
    "plain": ["engine.kind=plain"],
    "zero-0": ["engine.zero_stage=0"],
    "zero-1": ["engine.zero_stage=1"],
    "zero-2": ["engine.zero_stage=2"],
    "zero-3": ["engine.zero_stage=3"],
    "offload": ["engine.zero_stage=2", "engine.offload.optimizer=cpu"],
    "offload-3": ["engine.zero_stage=3", "engine.offload.optimizer=cpu"],
    "nvme": [
        "engine.zero_stage=1",
        "engine.offload.optimizer=nvme",
        "engine.offload.nvme_path=NVME",
    ],
    "nvme-3": [
        "engine.zero_stage=3",
        "engine.offload.optimizer=nvme",
        "engine.offload.nvme_path=NVME",
        "engine.ema_decay=0.9",
    ],
    "micro-batches": ["engine.micro_batch=2"],
    "micro-batches-3": ["engine.zero_stage=3", "engine.micro_batch=1"],
    "micro-batches-plain": ["engine.kind=plain", "engine.micro_batch=1"],
    "checkpointing": ["engine.activation_checkpointing=true"],
    "checkpointing-3": ["engine.zero_stage=3", "engine.activation_checkpointing=true"],
    "average": ["engine.ema_decay=0.9", "engine.zero_stage=3"],
    "average-1": ["engine.ema_decay=0.9", "engine.zero_stage=1"],
    "average-plain": ["engine.ema_decay=0.9", "engine.kind=plain"],
    "bf16-1": ["engine.precision=bf16", "engine.zero_stage=1"],
    "bf16-2": ["engine.precision=bf16"],
    "bf16-3": ["engine.precision=bf16", "engine.zero_stage=3"],
    "bf16-plain": ["engine.precision=bf16", "engine.kind=plain"],
}


@pytest.fixture(scope="module")
def runs(tokens, tiny_stage2, tmp_path_factory):
    """The folders of all engines at 1, 2 and 3 ranks."""
    base = tmp_path_factory.mktemp("parity")
    (base / "disk").mkdir()
    for world in (1, 2, 3):
        folder = base / str(world)
        commands = [
            [*tiny_stage2(folder / name), *(c.replace("NVME", str(base / "disk")) for c in changes)]
            for name, changes in ENGINES.items()
        ]
        run_several(commands, world, folder)
    return base


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_and_number_of_ranks_has_the_losses_of_one_plain_process(runs, name, world):
    reference = curve(runs / "1" / "plain")
    found = curve(runs / str(world) / name)
    assert found.keys() == reference.keys()
    # Six digits; with the 8 bits of bf16 two, over 12 steps.
    tolerance = 0.02 if "bf16" in name else 1e-6
    for step, loss in reference.items():
        assert found[step] == pytest.approx(loss, rel=tolerance), step


@pytest.mark.parametrize("name", ["average", "average-1", "average-plain", "nvme-3"])
def test_evaluation_and_artifact_have_the_averaged_weights(runs, name):
    with_average = (runs / "2" / name / "artifact" / "model.safetensors").read_bytes()
    without = (runs / "2" / "zero-2" / "artifact" / "model.safetensors").read_bytes()
    assert with_average != without
    from safetensors.torch import load

    reference = load((runs / "1" / "average-plain" / "artifact" / "model.safetensors").read_bytes())
    for key, value in load(with_average).items():
        assert value.float().numpy() == pytest.approx(reference[key].float().numpy(), abs=1e-5)
