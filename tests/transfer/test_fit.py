"""How heads and backbones learn: who, when, and at which rate."""

import numpy as np
import pytest
import torch

from configs.schema import FitConfig, InputSet
from pipeline.transfer.feed import FrozenFeed, LiveFeed
from pipeline.transfer.fit import Scale, fit
from pipeline.transfer.heads import make_head
from tests.transfer.worlds import CPU, mask_task, open_task, stage2, write_masks

GIVEN = InputSet()


@pytest.fixture
def world(tmp_path):
    """A task of masks, a tiny backbone and a head."""
    backbone = stage2(tmp_path / "run")
    task = open_task(mask_task(write_masks(tmp_path / "data", 16)), backbone)
    torch.manual_seed(0)
    head = make_head("linear", is_map=True, width=backbone.width, num_outputs=2, num_doublings=0)
    return task, backbone, head


def config(**changes) -> FitConfig:
    values = {"num_steps": 40, "batch": 4, "eval_every": 40, "augment": False}
    return FitConfig.model_validate(values | changes)


def live(task, backbone, steps):
    """A feed that notes the weights of the backbone before every step."""

    class Watched(LiveFeed):
        def show(self, split, places, given, rng=None):
            if split == "train":
                steps.append([p.detach().clone() for p in backbone.parameters()])
            return super().show(split, places, given, rng)

    last = [backbone.depth - 1]
    return Watched(task, backbone, last, CPU, modality_dropout=0.0, augment=False)


def run(head, backbone, feed, task, fitting):
    places, val = np.arange(len(task.labels["train"])), np.arange(len(task.labels["val"]))
    return fit(head, backbone, feed, task, GIVEN, places, val, fitting, Scale(), 0)


@pytest.mark.parametrize(("asked", "frozen"), [(6, 6), (50, 10), (0, 0)])
def test_the_backbone_waits_until_the_head_has_learned(world, asked, frozen):
    task, backbone, head = world
    steps = []
    run(head, backbone, live(task, backbone, steps), task, config(freeze_steps=asked))
    first = steps[0]
    moved = [any(not torch.equal(a, b) for a, b in zip(first, s, strict=True)) for s in steps]
    # Weights before step n: those that steps 1 to n - 1 left.
    assert moved.index(True) == frozen + 1
    assert all(p.requires_grad for p in backbone.parameters())


def test_fine_tuning_begins_as_a_probe(world):
    """As long as the backbone is frozen the head learns as it does alone, at the same rate."""
    task, backbone, head = world
    heads, fresh = [], {n: v.clone() for n, v in head.state_dict().items()}

    class Noted(torch.nn.Module):
        def __init__(self, made):
            super().__init__()
            self.inner = made

        def forward(self, maps, size):
            if self.training:
                heads[-1].append(self.inner.linear.weight.detach().clone())
            return self.inner(maps, size)

    last = [backbone.depth - 1]
    for tuned in (False, True):
        head.load_state_dict(fresh)
        heads.append([])
        if tuned:
            feed = LiveFeed(task, backbone, last, CPU, modality_dropout=0.0, augment=False)
        else:
            feed = FrozenFeed(task, backbone, last, CPU, pooled=False, batch=4, limit_gb=1)
            for split in ("train", "val"):
                feed.keep(split, GIVEN, np.arange(len(task.labels[split])))
        learns = backbone if tuned else None
        run(Noted(head), learns, feed, task, config(freeze_steps=8))
    alone, together = heads
    for a, b in zip(alone[:9], together[:9], strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(alone[-1], together[-1], atol=1e-4)


def test_nobody_stops_before_the_backbone_has_learned(world):
    task, backbone, head = world
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.tensor([30.0, -30.0]))
    steps = []
    fitting = config(num_steps=80, freeze_steps=20, eval_every=1, patience=5, head_lr=1e-9)
    found = run(head, backbone, live(task, backbone, steps), task, fitting)
    assert found.best_step == 1
    assert found.steps >= 25
