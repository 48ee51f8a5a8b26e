"""How a model is trained, whatever the model is."""

from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen


class OptimizerConfig(Frozen):
    """AdamW, torch's fused implementation. No decay on norms, biases and embeddings."""

    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    clip_grad_norm: float = Field(default=1.0, ge=0)


class ScheduleConfig(Frozen):
    """Learning rate over steps: linear warm-up, then cosine decay to `final_lr_ratio` of the peak."""

    warmup_steps: int = Field(default=20, ge=0)
    final_lr_ratio: float = Field(default=0.05, ge=0, le=1)


class CheckpointConfig(Frozen):
    """When the state is committed and how many commits are kept."""

    every_steps: int = Field(default=100, gt=0)
    keep_last: int = Field(default=2, gt=0)


class EngineConfig(Frozen):
    """One training run on DeepSpeed ZeRO.

    `global_batch` counts samples per optimizer step over all ranks and does not change with the
    number of ranks; `micro_batch` bounds what one rank holds at once (0: no bound).
    """

    zero_stage: Literal[1, 2] = 2
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_steps: int = Field(gt=0)
    global_batch: int = Field(gt=0)
    micro_batch: int = Field(default=0, ge=0)
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = Field(default=10, gt=0)
    eval_every: int = Field(default=0, ge=0, description="0: only at the end")
    eval_samples: int = Field(default=64, gt=0)
