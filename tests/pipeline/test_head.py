"""The head that never keeps its logits, against cross-entropy written out."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.layers import head
from pipeline.layers.head import head_loss


def made_up(num_rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_rows, 6, generator=generator, dtype=dtype).requires_grad_()
    rows = torch.randn(11, 6, generator=generator, dtype=dtype).requires_grad_()
    goal = torch.randint(11, (num_rows,), generator=generator)
    weight = torch.rand(num_rows, generator=generator)
    return features, rows, goal, weight


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setitem(head.CHUNK_ROWS, "cpu", 4)


@pytest.mark.parametrize("num_rows", [1, 4, 11])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_cross_entropy(num_rows, z_loss):
    features, rows, goal, weight = made_up(num_rows)
    found = head_loss(features, rows, goal, weight, z_loss, count_right=True)
    logits = features @ rows.T
    entropy = F.cross_entropy(logits, goal, reduction="none")
    expected = weight * (entropy + z_loss * logits.logsumexp(-1) ** 2)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.entropy, entropy)
    assert torch.equal(found.right.bool(), logits.argmax(-1) == goal)
    ours = torch.autograd.grad(found.loss.sum() * 0.3, [features, rows])
    theirs = torch.autograd.grad(expected.sum() * 0.3, [features, rows])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_no_rows_have_no_loss_and_gradients_of_zero():
    features, rows, goal, weight = made_up(0)
    found = head_loss(features, rows, goal, weight)
    found.loss.sum().backward()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_gradients_that_differ_from_row_to_row_are_refused():
    features, rows, goal, weight = made_up(3)
    found = head_loss(features, rows, goal, weight)
    with pytest.raises(RuntimeError, match="one factor"):
        (found.loss * torch.tensor([1.0, 2.0, 3.0])).sum().backward()


def test_under_autocast_products_are_bf16_and_the_softmax_is_not():
    features, rows, goal, weight = made_up(9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = head_loss(features, rows, goal, weight)
    assert found.loss.dtype == torch.float32
    found.loss.sum().backward()
    exact = torch.autograd.grad(head_loss(features, rows, goal, weight).loss.sum(), [rows])[0]
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32
    torch.testing.assert_close(rows.grad, exact, rtol=0.05, atol=0.05)


def test_without_gradients_none_are_made():
    features, rows, goal, weight = made_up(5)
    with torch.no_grad():
        found = head_loss(features, rows, goal, weight)
    assert not found.loss.requires_grad
