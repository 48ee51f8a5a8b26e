"""How long a run is and which learning rate it has when.

Lengths may be said in samples or tokens, so that they stay what they are when the global batch
changes; here they become steps, once.
"""

import math
from dataclasses import dataclass

from configs import ConfigError
from configs.schema import EngineConfig, ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """A run of `num_steps` steps and the factor on every learning rate at each of them."""

    num_steps: int
    warmup_steps: int
    config: ScheduleConfig

    def factor(self, step: int) -> float:
        """Factor for the update that follows `step` finished steps: in (0, 1].

        cosine: Loshchilov and Hutter 2017, eq. 5, once; wsd: Hu et al. 2024, linear decay;
        inverse_sqrt: Vaswani et al. 2017, eq. 3, scaled to 1 at the end of the warm-up.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        floor, since = self.config.final_lr_ratio, step - self.warmup_steps
        span = max(1, self.num_steps - self.warmup_steps)
        match self.config.kind:
            case "constant":
                return 1.0
            case "cosine":
                progress = min(1.0, since / span)
                return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
            case "wsd":
                decay_steps = max(1, round(self.config.decay_share * self.num_steps))
                left = max(0, self.num_steps - step)
                return floor + (1 - floor) * min(1.0, left / decay_steps)
            case "inverse_sqrt":
                start = max(1, self.warmup_steps)
                return max(floor, math.sqrt(start / (start + since)))


def build_schedule(config: EngineConfig, tokens_per_sample: int) -> Schedule:
    """Everything in steps. `tokens_per_sample` is 0 where an objective has no tokens.

    Raises ConfigError when a length is said in tokens and there are none.
    """
    per_step = {"steps": 1, "samples": config.global_batch}
    per_step["tokens"] = config.global_batch * tokens_per_sample

    def in_steps(what: str, given: dict[str, int | None]) -> int:
        for unit, value in given.items():
            if value is None:
                continue
            if not per_step[unit]:
                raise ConfigError(
                    f"{what} is said in tokens, which this model does not count; say it in samples"
                )
            return -(-value // per_step[unit])
        return 0

    schedule = config.schedule
    num_steps = in_steps(
        "engine.num_tokens",
        {"steps": config.num_steps, "samples": config.num_samples, "tokens": config.num_tokens},
    )
    warmup_steps = in_steps(
        "engine.schedule.warmup_tokens",
        {
            "steps": schedule.warmup_steps,
            "samples": schedule.warmup_samples,
            "tokens": schedule.warmup_tokens,
        },
    )
    return Schedule(num_steps, warmup_steps, schedule)
