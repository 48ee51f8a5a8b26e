"""The critic, and how its opinion is weighed against the reconstruction."""

import pytest
import torch
import torch.nn.functional as F

from configs import ConfigError
from configs.schema import GanConfig
from pipeline.stage1.arms import GanArm, balanced
from pipeline.stage1.classes import straight_through, to_channels, to_classes
from pipeline.stage1.decoders.critic import CriticModel, PatchCritic
from tests.pipeline.test_tokenizer import make, some


def test_the_balance_is_that_of_the_gradients_at_the_last_layer():
    """Equation 7 of Esser et al. 2021, with autograd, one sample at a time."""
    torch.manual_seed(0)
    last = torch.nn.Linear(6, 8)
    features, goal, other = torch.randn(3, 5, 6), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    patches = last(features)
    loss = (patches - goal).abs().flatten(1).mean(1)
    opinion = (patches * other).tanh().flatten(1).sum(1)
    (of_loss,) = torch.autograd.grad(loss.sum(), patches, retain_graph=True)
    (of_opinion,) = torch.autograd.grad(opinion.sum(), patches, retain_graph=True)
    found = balanced(of_loss, of_opinion, features)
    for b in range(3):
        (of_loss,) = torch.autograd.grad(loss[b], last.weight, retain_graph=True)
        (of_opinion,) = torch.autograd.grad(opinion[b], last.weight, retain_graph=True)
        assert float(found[b]) == pytest.approx(
            float(of_loss.norm() / (of_opinion.norm() + 1e-4)), rel=1e-4
        )


def test_the_critic_enters_when_it_is_time():
    model, batch = (
        make("S2L2A", "fsq", "gan", gan={"width": 8, "depth": 1, "start_step": 2}),
        some("S2L2A"),
    )
    alone = make("S2L2A", "fsq", "vit")
    alone.load_state_dict(model.state_dict(), strict=True)
    model.train()
    for step in range(4):
        expected = alone.decoder.teach(alone.encode(batch["x"]), batch, alone.updates).loss
        found = model(batch).loss
        assert torch.allclose(found, expected) == (step < 2)
        model.absorb({}, {})


def test_the_adaptive_weight_is_a_constant_of_the_gradient():
    """As if each sample's weight were a number known beforehand."""
    model, batch = (
        make("S2L2A", "fsq", "gan", gan={"width": 8, "depth": 1, "start_step": 0}),
        some("S2L2A"),
    )
    decoder, latents = model.decoder, model.encode(batch["x"]).detach()
    assert isinstance(decoder, GanArm)
    assert decoder.loss is not None
    decoder.teach(latents, batch, model.updates).loss.sum().backward()
    found = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    model.zero_grad()

    features = decoder.net.features(latents)
    patches = decoder.net.to_pixels(features)
    made = decoder.net.unpatchify(patches)
    loss = decoder.loss(made, batch["x"], batch["valid"])
    opinion = -decoder._judge(made * batch["valid"][:, None]).flatten(1).mean(1)
    total = torch.zeros(())
    for b in range(len(loss)):
        lengths = [
            torch.autograd.grad(term[b], decoder.net.to_pixels.weight, retain_graph=True)[0].norm()
            for term in (loss, opinion)
        ]
        total = total + loss[b] + 0.5 * lengths[0] / (lengths[1] + 1e-4) * opinion[b]
    total.backward()
    assert found.keys() == {n for n, p in decoder.named_parameters() if p.grad is not None}
    for name, parameter in decoder.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_hinge_loss_is_the_formula():
    torch.manual_seed(0)
    net = PatchCritic(3, GanConfig(width=8, depth=2), 16)
    shown, made = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    found = CriticModel(net, GanConfig())({"shown": shown, "made": made})
    for b in range(2):
        real, fake = net(shown[b : b + 1]), net(made[b : b + 1])
        expected = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        torch.testing.assert_close(found.loss[b], expected)


def test_r1_is_the_squared_slope_at_the_truth():
    torch.manual_seed(0)
    net = PatchCritic(1, GanConfig(width=8, depth=1), 8)
    batch = {"shown": torch.randn(2, 1, 8, 8), "made": torch.randn(2, 1, 8, 8)}
    plain = CriticModel(net, GanConfig())(dict(batch)).loss
    found = CriticModel(net, GanConfig(r1=3.0))(dict(batch)).loss
    for b in range(2):
        x = batch["shown"][b : b + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x)
        torch.testing.assert_close(found[b], plain[b] + 1.5 * (slope**2).sum())
    found.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_lecam_pulls_scores_to_the_other_sides_mean():
    net = PatchCritic(1, GanConfig(width=8, depth=1), 8)
    model = CriticModel(net, GanConfig(lecam=1.0))
    batch = {"shown": torch.randn(2, 1, 8, 8), "made": torch.randn(2, 1, 8, 8)}
    output = model(dict(batch))
    model.absorb(output.stats, {})
    real, fake = net(batch["shown"]).mean(), net(batch["made"]).mean()
    torch.testing.assert_close(model.means, 0.01 * torch.stack([real, fake]))


def test_a_score_depends_on_its_own_sample_alone():
    net, x = PatchCritic(2, GanConfig(width=8, depth=2), 16), torch.randn(4, 2, 16, 16)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


@pytest.mark.parametrize("size", [6, 8, 12, 13, 24, 48, 224])
def test_a_window_too_small_for_the_depth_is_refused_with_one_that_fits(size: int):
    for depth in range(1, 6):
        try:
            net = PatchCritic(1, GanConfig(width=4, depth=depth), size)
        except ConfigError as error:
            fits = int(str(error).split("write gan.depth=")[1].split()[0])
            assert PatchCritic(1, GanConfig(width=4, depth=fits), size)(
                torch.zeros(1, 1, size, size)
            ).numel()
        else:
            assert net(torch.zeros(1, 1, size, size)).numel()


def test_classes_are_shown_as_classes_with_the_gradient_of_their_probabilities():
    logits = torch.randn(2, 2 * 3, 4, 4, requires_grad=True)
    shown = straight_through(logits, 3)
    assert set(shown.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(to_channels(to_classes(logits, 3), 3), shown)
    weights = torch.randn_like(shown)
    (shown * weights).sum().backward()
    again = logits.detach().clone().requires_grad_()
    (again.unflatten(1, (2, 3)).softmax(2).flatten(1, 2) * 2 * weights).sum().backward()
    torch.testing.assert_close(logits.grad, again.grad)
