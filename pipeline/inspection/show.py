"""`python -m pipeline inspect`: what a run would be, on one page or as JSON."""

import json
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from configs import to_yaml
from configs.schema import RunConfig
from pipeline.data.loader import Slice
from pipeline.engine.errors import RunError
from pipeline.engine.schedule import build_schedule
from pipeline.inspection.costs import GPU_GB, Costs, measure
from pipeline.inspection.example import Example, build_example


def inspect(config: RunConfig, world: int, *, as_json: bool) -> None:
    """Print it. Raises ConfigError or RunError for what could not be trained."""
    engine = config.engine
    try:
        part = Slice(engine.global_batch, engine.micro_batch, 0, world)
    except ValueError as error:
        raise RunError(str(error)) from error
    per_rank = -(-engine.global_batch // world)
    micro_batch = -(-per_rank // part.num_micro)
    example = build_example(config, micro_batch)
    costs = measure(example, engine, world, micro_batch)
    schedule = build_schedule(engine, example.tokens_per_sample)
    facts: dict[str, Any] = {
        "ranks": world,
        "samples_per_step": engine.global_batch,
        "micro_batch": micro_batch,
        "accumulation": part.num_micro,
        "tokens_per_step": engine.global_batch * example.tokens_per_sample,
        "steps": schedule.num_steps,
        "warmup_steps": schedule.warmup_steps,
        "samples": example.num_samples,
        "steps_per_epoch": _steps_per_epoch(example, engine.global_batch),
        "parameters": costs.num_parameters,
        "tflop_per_sample": costs.flops_per_sample / 1e12,
        "tflop_per_step": costs.flops_per_sample * engine.global_batch / 1e12,
        "exaflop_of_run": costs.flops_per_sample * engine.global_batch * schedule.num_steps / 1e18,
        "activation_gb": costs.activation_bytes / 1e9,
        "checkpoint_gb": costs.checkpoint_bytes / 1e9,
        "assumed": example.assumed,
    }
    if as_json:
        memory = [asdict(m) | {"total": m.total} for m in costs.memory]
        typer.echo(json.dumps(facts | {"parts": costs.parameters, "memory": memory}, indent=1))
    else:
        _print(config, facts, costs)


def _steps_per_epoch(example: Example, global_batch: int) -> float | None:
    return None if example.num_samples is None else round(example.num_samples / global_batch, 2)


def _print(config: RunConfig, facts: dict[str, Any], costs: Costs) -> None:
    console = Console(width=110, highlight=False)
    console.print(to_yaml(config), markup=False)
    table = Table(title="The run", show_header=False)
    for name, value in facts.items():
        if value is not None and value != "":
            table.add_row(name.replace("_", " "), _number(value))
    if facts["samples"] is None:
        table.add_row("samples", f"no data set at {config.data.shards} yet")
    console.print(table)
    table = Table(title="Parameters")
    table.add_column("part")
    table.add_column("millions", justify="right")
    for name, count in costs.parameters.items():
        table.add_row(name, f"{count / 1e6:,.2f}")
    table.add_row("all", f"{costs.num_parameters / 1e6:,.2f}")
    console.print(table)
    chosen = config.engine.zero_stage if config.engine.kind == "deepspeed" else None
    table = Table(
        title=f"GB on one GPU, {facts['ranks']} ranks, micro-batches of {facts['micro_batch']}"
    )
    for name in ("ZeRO", "weights", "gradients", "optimizer", "activations", "all"):
        table.add_column(name, justify="right")
    for size in GPU_GB:
        table.add_column(f"fits {size} GB", justify="right")
    for m in costs.memory:
        sizes = (m.weights, m.gradients, m.optimizer, m.activations, m.total)
        fits = ["yes" if m.fits(size) else "no" for size in GPU_GB]
        mark = f"{m.stage} *" if m.stage == chosen else f"{m.stage}"
        table.add_row(mark, *(f"{s / 1e9:.2f}" for s in sizes), *fits)
    console.print(table)
    console.print(
        "* as configured. Activations are counted with attention written out, an upper bound for fused "
        "kernels; 1.5 GB are left for CUDA, NCCL and buckets."
    )


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
