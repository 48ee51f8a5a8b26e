"""How a model is trained, whatever the model is."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen

OptimizerName = Literal["adamw", "apex_adam", "deepspeed_adam", "muon"]


class OptimizerConfig(Frozen):
    """What updates the weights. Norms, biases and embeddings are never decayed.

    `adamw` is torch's fused AdamW: no build, any device. `apex_adam` is NVIDIA Apex's FusedAdam,
    `deepspeed_adam` DeepSpeed's; both are looked for at start. `muon` orthogonalises the momentum of
    hidden matrices (Jordan et al. 2024) with rate `lr`; everything else AdamW moves with `adam_lr`;
    under it nothing is clipped, as DeepSpeed would clip the orthogonalised updates.
    `layer_decay` below 1 multiplies the rate of a block once for each block above it (fine-tuning).
    """

    name: OptimizerName = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    clip_grad_norm: float = Field(default=1.0, ge=0, description="0: gradients are not clipped")
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    momentum: float = Field(default=0.95, gt=0, lt=1, description="of muon")
    adam_lr: float = Field(default=3e-4, gt=0, description="of what muon leaves to AdamW")

    @property
    def clip(self) -> float:
        """The norm to which gradients are clipped; 0 for none."""
        return 0.0 if self.name == "muon" else self.clip_grad_norm


class ScheduleConfig(Frozen):
    """Learning rate over the run: a linear warm-up, then one of four shapes.

    `cosine` falls to `final_lr_ratio` of the peak; `wsd` (warm up, stay, decay: Hu et al. 2024) stays
    at the peak and falls linearly over the last `decay_share` of the run; `inverse_sqrt` falls with
    the square root of time since the warm-up; `constant` stays. A warm-up said in samples or tokens
    stays the same when the global batch changes; give at most one of the three.
    """

    kind: Literal["cosine", "wsd", "inverse_sqrt", "constant"] = "cosine"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_samples: int | None = Field(default=None, ge=0)
    warmup_tokens: int | None = Field(default=None, ge=0)
    final_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    decay_share: float = Field(default=0.2, gt=0, le=1, description="of wsd")

    @model_validator(mode="after")
    def _one_warmup(self) -> "ScheduleConfig":
        given = [self.warmup_steps, self.warmup_samples, self.warmup_tokens]
        if sum(value is not None for value in given) > 1:
            raise ValueError("give one of warmup_steps, warmup_samples and warmup_tokens")
        return self


class CheckpointConfig(Frozen):
    """When the state is committed and how many commits are kept.

    The newest `keep_last` stay, and beside them each whose step is a multiple of `keep_every_steps`.
    With `background`, training waits for the copy to host memory only and the files are written
    beside it; this takes host memory for one copy of a rank's state.
    """

    every_steps: int = Field(default=100, gt=0)
    keep_last: int = Field(default=2, gt=0)
    keep_every_steps: int = Field(default=0, ge=0, description="0: none beside the newest")
    background: bool = True


class GuardConfig(Frozen):
    """What training does about numbers that are not finite, and about spikes.

    A step is skipped on all ranks when loss or gradient is not finite, or when either exceeds
    `spike_factor` times its running mean (0: spikes pass). After `skips_before_rollback` skipped
    steps among the last `window_steps` the run goes back to its last commit and leaves out the data
    from the first of those steps on; after `max_rollbacks` of those it gives up.
    """

    spike_factor: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=100, ge=0, description="steps before spikes are judged")
    window_steps: int = Field(default=50, gt=0)
    skips_before_rollback: int = Field(default=5, gt=0)
    max_rollbacks: int = Field(default=3, ge=0)


class WatchConfig(Frozen):
    """Heartbeats of every rank, and what happens when one of them stops making progress.

    After `stall_s` without progress every rank writes the stacks of its threads beside its heartbeat
    and the first rank names the one that is behind. After `abort_s` the ranks leave with a failure,
    so that the job can be started again (0: they wait for ever).
    """

    beat_s: float = Field(default=5.0, gt=0)
    stall_s: float = Field(default=600.0, gt=0)
    abort_s: float = Field(default=1800.0, ge=0)


class OffloadConfig(Frozen):
    """Where ZeRO keeps what does not fit on the GPU: in the host's memory, or on a local disk.

    `nvme` is `cpu` with fp32 weights, moments and average in files under `nvme_path` that are mapped
    into memory, so that of them RAM holds what it has room for; gradients stay in RAM.
    """

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    parameters: Literal["none", "cpu"] = Field(default="none", description="ZeRO-3 only")
    nvme_path: Path | None = Field(default=None, description="a folder on a disk of each node")

    @model_validator(mode="after")
    def _has_a_path(self) -> "OffloadConfig":
        if self.optimizer == "nvme" and self.nvme_path is None:
            raise ValueError("offload.optimizer: nvme needs nvme_path, a folder on a local disk")
        return self


class ProfilerConfig(Frozen):
    """A trace by torch's profiler of `num_steps` steps, `RUN/profile/rank-000.json` (0: none)."""

    first_step: int = Field(default=10, ge=0)
    num_steps: int = Field(default=0, ge=0)


class EngineConfig(Frozen):
    """One training run.

    Its length is `num_steps`, `num_samples` or `num_tokens`, one of them. `global_batch` counts
    samples per optimizer step over all ranks and does not change with the number of ranks;
    `micro_batch` bounds what one rank holds at once (0: no bound), the rest is accumulated.

    `kind: plain` is a few lines of torch in place of DeepSpeed, for one GPU or as a reference.
    `zero_stage` partitions over ranks: 0 nothing, 1 optimizer, 2 and gradients, 3 and weights.
    """

    kind: Literal["deepspeed", "plain"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: OffloadConfig = OffloadConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = Field(default=False, description="torch.compile of the transformer blocks")
    layer_norm: Literal["torch", "apex"] = "torch"
    num_steps: int | None = Field(default=None, gt=0)
    num_samples: int | None = Field(default=None, gt=0)
    num_tokens: int | None = Field(default=None, gt=0)
    global_batch: int = Field(gt=0)
    micro_batch: int = Field(default=0, ge=0)
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="0: no average of the weights")
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    watch: WatchConfig = WatchConfig()
    profiler: ProfilerConfig = ProfilerConfig()
    log_every: int = Field(default=10, gt=0)
    log_samples: bool = Field(default=False, description="write which samples each step consumed")
    wandb: str = Field(default="", description="project to log to; empty: none")
    eval_every: int = Field(default=0, ge=0, description="0: only at the end")
    eval_samples: int = Field(default=64, gt=0)
    allow_changes: bool = Field(default=False, description="go on though model or data changed")

    @model_validator(mode="after")
    def _fits_together(self) -> "EngineConfig":
        given = [self.num_steps, self.num_samples, self.num_tokens]
        if sum(value is not None for value in given) != 1:
            raise ValueError(
                "give one of num_steps, num_samples and num_tokens (and num_steps=null where a base "
                "file gives it already)"
            )
        if self.kind == "deepspeed":
            self._fits_zero()
        elif self.offload != OffloadConfig():
            raise ValueError("offload is ZeRO's; write kind: deepspeed")
        if self.optimizer.name == "muon" and self.optimizer.layer_decay != 1:
            raise ValueError(
                "layer_decay is for AdamW; muon has a rate for matrices and one beside"
            )
        return self

    def _fits_zero(self) -> None:
        stage, offload = self.zero_stage, self.offload
        if stage == 0 and self.precision == "bf16":
            raise ValueError(
                "ZeRO-0 in bf16 keeps no fp32 weights; write zero_stage: 1, or kind: plain"
            )
        if offload.optimizer != "none" and stage == 0:
            raise ValueError("offload.optimizer needs zero_stage 1, 2 or 3")
        if offload.parameters != "none" and stage != 3:
            raise ValueError("offload.parameters needs zero_stage: 3")
        if self.compile and stage == 3:
            raise ValueError(
                "compile does not go with ZeRO-3, which takes weights apart; use 0, 1 or 2"
            )
        if self.optimizer.name == "muon":
            self._fits_muon()
        if self.optimizer.name in ("apex_adam", "deepspeed_adam") and offload.optimizer != "none":
            raise ValueError(
                f"{self.optimizer.name} runs on GPUs only; with offload.optimizer write "
                "optimizer.name: adamw"
            )

    def _fits_muon(self) -> None:
        if self.zero_stage == 0:
            raise ValueError("muon needs zero_stage 1, 2 or 3, or kind: plain")
        if self.zero_stage == 1 and self.precision == "bf16":
            raise ValueError("muon in bf16 needs zero_stage 2 or 3, or kind: plain")
        if self.offload.optimizer != "none":
            raise ValueError(
                "muon does not go with offload.optimizer: DeepSpeed keeps its momentum of a dropped "
                "step, and otherwise cut than without; write offload.optimizer: none"
            )
