"""A critic of patches, and how it learns to tell what a decoder made from what was measured.

Shapes: B batch, K channels (bands, or one-hot classes), H W pixels; scores [B, 1, h, w].
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import GanConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput
from pipeline.layers.float32 import Float32Buffers

_GROUPS = 8
_MEAN_DECAY = 0.99
_MAX_WIDENING = 8


class PatchCritic(nn.Module):
    """Strided convolutions, one score per patch (Isola et al. 2017, section 3.2.2).

    Groups are normalised in place of batches: a score depends on its own sample alone.
    Raises ConfigError for windows that are too small for the depth.
    """

    def __init__(self, num_channels: int, config: GanConfig, size: int):
        super().__init__()
        if size // 2**config.depth < 3:
            raise ConfigError(
                f"gan.depth={config.depth} leaves nothing of a window of {size} px to judge; write "
                f"gan.depth={max(1, (size // 3).bit_length() - 1)} or less, or larger windows"
            )
        widths = [config.width * min(2**i, _MAX_WIDENING) for i in range(config.depth + 1)]
        self.first = nn.Conv2d(num_channels, widths[0], 4, 2, 1)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2)]
        for i in range(1, config.depth + 1):
            stride = 2 if i < config.depth else 1
            layers += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
                nn.GroupNorm(min(_GROUPS, widths[i]), widths[i]),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.rest = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x.to(self.first.weight.dtype))).float()


class CriticModel(Float32Buffers):
    """Hinge loss of a critic (Lim and Ye 2017) on measured and made windows.

    `forward(batch)`: `shown` [B, K, H, W] is the truth as the critic sees it, `made` what the decoder
    made of it. `r1` punishes slopes at the truth (Mescheder et al. 2018, eq. 9), `lecam` scores far from
    the running mean of the other side (Tseng et al. 2021, eq. 4).
    """

    means: Tensor

    def __init__(self, net: PatchCritic, config: GanConfig):
        super().__init__()
        self.net, self.config = net, config
        self.register_buffer("means", torch.zeros(2))

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        shown, made = batch["shown"].float(), batch["made"].float()
        with_slope = self.config.r1 > 0 and torch.is_grad_enabled()
        real = self.net(shown.requires_grad_(with_slope)).flatten(1)
        fake = self.net(made).flatten(1)
        loss = 0.5 * (F.relu(1 - real).mean(1) + F.relu(1 + fake).mean(1))
        if with_slope:
            (slope,) = torch.autograd.grad(real.sum(), shown, create_graph=True)
            loss = loss + self.config.r1 / 2 * slope.square().flatten(1).sum(1)
        if self.config.lecam:
            of_real, of_fake = self.means
            apart = (real - of_fake).square().mean(1) + (fake - of_real).square().mean(1)
            loss = loss + self.config.lecam * apart
        sums = {
            "loss": loss.sum().detach(),
            "count": loss.new_tensor(len(loss)),
            "real": real.mean(1).sum().detach(),
            "fake": fake.mean(1).sum().detach(),
        }
        stats = (
            {name: sums[name] for name in ("count", "real", "fake")} if self.config.lecam else {}
        )
        return StepOutput(loss, sums, stats)

    def absorb(self, stats: Mapping[str, Tensor], _: Mapping[str, Tensor]) -> None:
        """Let the running means of the scores follow."""
        now = torch.stack([stats["real"], stats["fake"]]) / stats["count"]
        self.means.lerp_(now.to(self.means), 1 - _MEAN_DECAY)
