"""The decoders that are compared, each with what it is taught by.

    vit         pixels at once                                   reconstruction loss
    gan         the same                                         and a critic's opinion
    diffusion   noise taken away in steps, told by the latents   error of its prediction

Shapes: B batch, N patches, L latent width, K channels (bands, or maps times classes), H W pixels.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from configs.schema import GanConfig
from pipeline.data.loader import Batch
from pipeline.stage1.classes import straight_through, to_channels
from pipeline.stage1.decoders.critic import PatchCritic
from pipeline.stage1.decoders.diffusion import DiffusionDecoder
from pipeline.stage1.decoders.vit import VitDecoder
from pipeline.stage1.losses.reconstruction import ReconstructionLoss


class Taught(NamedTuple):
    """A training step of a decoder: loss [B], sums for the log, and what there is to judge."""

    loss: Tensor
    sums: Mapping[str, Tensor] = {}
    judged: Mapping[str, Tensor] = {}


class Arm(Protocol):
    """A decoder as the tokenizer knows it."""

    def teach(self, z: Tensor, batch: Batch, updates: Tensor) -> Taught:
        """The loss of each window from its latents; the batch holds `x`, `valid` and `seed`.

        `updates` is how many steps there have been.
        """
        ...

    def decode(self, z: Tensor, seeds: Tensor) -> Tensor:
        """Latents -> [B, K, H, W]: normalised bands, or something that is largest for the likeliest
        class. `seeds` [B] decide where chance has a say.
        """
        ...


class VitArm(nn.Module):
    """The deterministic decoder; without a loss it only decodes."""

    def __init__(self, net: VitDecoder, loss: ReconstructionLoss | None):
        super().__init__()
        self.net, self.loss = net, loss

    def teach(self, z: Tensor, batch: Batch, updates: Tensor) -> Taught:
        return Taught(self._reconstruction(self.net(z), batch))

    def decode(self, z: Tensor, seeds: Tensor) -> Tensor:
        return self.net(z)

    def _reconstruction(self, prediction: Tensor, batch: Batch) -> Tensor:
        assert self.loss is not None
        return self.loss(prediction, batch["x"], batch["valid"])


class GanArm(VitArm):
    """The deterministic decoder and a critic. `num_classes` is 0 for images.

    The critic trains in an engine of its own: it is no part of this module's state.
    """

    def __init__(
        self,
        net: VitDecoder,
        loss: ReconstructionLoss,
        critic: PatchCritic,
        config: GanConfig,
        num_classes: int,
    ):
        super().__init__(net, loss)
        self.config, self.num_classes = config, num_classes
        self._critic = [critic]

    def teach(self, z: Tensor, batch: Batch, updates: Tensor) -> Taught:
        features = self.net.features(z)
        patches = self.net.to_pixels(features)
        prediction = self.net.unpatchify(patches)
        loss = self._reconstruction(prediction, batch)
        made = self._show(prediction, batch["valid"])
        opinion = -self._judge(made).flatten(1).mean(1)
        weight = self.config.weight * (updates >= self.config.start_step)
        if self.config.adaptive and patches.requires_grad:
            g_loss, g_opinion = (_gradient(term, patches) for term in (loss, opinion))
            weight = weight * balanced(g_loss, g_opinion, features)
            value = (loss + weight * opinion).detach()
            # Both gradients are known: what follows goes back through the decoder alone.
            total = _with_gradient(value, patches, g_loss + weight[:, None, None] * g_opinion)
        else:
            total = loss + weight * opinion
        sums = {"reconstruction": loss.sum().detach(), "opinion": opinion.sum().detach()}
        shown = self._truth(batch["x"], batch["valid"])
        return Taught(total, sums, {"shown": shown, "made": made.detach()})

    def _show(self, prediction: Tensor, valid: Tensor) -> Tensor:
        channels = (
            straight_through(prediction, self.num_classes)
            if self.num_classes
            else prediction.float()
        )
        return channels * valid[:, None]

    def _truth(self, x: Tensor, valid: Tensor) -> Tensor:
        channels = to_channels(x, self.num_classes) if self.num_classes else x.float()
        return channels * valid[:, None]

    def _judge(self, made: Tensor) -> Tensor:
        """The critic's scores, with a gradient for what was made and none for the critic."""
        critic = self._critic[0]
        return functional_call(
            critic, {n: p.detach() for n, p in critic.named_parameters()}, (made,)
        )


def balanced(g_loss: Tensor, g_opinion: Tensor, features: Tensor) -> Tensor:
    """How much longer the gradient of the first is than that of the second at the last layer, [B].

    Equation 7 of Esser et al. 2021, sample by sample, so that it does not depend on how a batch is
    cut. The last layer's weights have the gradient G^T F, of patches' gradients G [B, N, P] and features
    F [B, N, D]; its length follows from the products of G and F with themselves, without the weights.
    """
    similar = features.detach().float() @ features.detach().float().transpose(1, 2)
    lengths = []
    for g in (g_loss, g_opinion):
        squared = ((g.float() @ g.float().transpose(1, 2)) * similar).sum((1, 2))
        lengths.append(squared.clamp(min=0).sqrt())
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(max=1e4)


def _gradient(term: Tensor, patches: Tensor) -> Tensor:
    """Of the sum of [B] in the patches [B, N, P] of the same samples."""
    # What is made of the patches is seen by both terms.
    (found,) = torch.autograd.grad(term.sum(), patches, retain_graph=True)
    return found


def _with_gradient(value: Tensor, patches: Tensor, gradient: Tensor) -> Tensor:
    """`value` [B], whose gradient in the patches is the one given."""
    linear = (patches * gradient.to(patches.dtype)).flatten(1).sum(1, dtype=torch.float32)
    return linear + (value - linear).detach()


class DiffusionArm(nn.Module):
    """The decoder that removes noise. `num_classes` is 0 for images."""

    def __init__(self, net: DiffusionDecoder, num_classes: int, patch: int):
        super().__init__()
        self.net, self.num_classes, self.patch = net, num_classes, patch

    def teach(self, z: Tensor, batch: Batch, updates: Tensor) -> Taught:
        x = batch["x"]
        channels = to_channels(x, self.num_classes) if self.num_classes else x
        return Taught(self.net(z, channels, batch["valid"], batch["seed"]))

    def decode(self, z: Tensor, seeds: Tensor) -> Tensor:
        side = round(z.shape[1] ** 0.5) * self.patch
        return self.net.decode(z, seeds, (side, side))
