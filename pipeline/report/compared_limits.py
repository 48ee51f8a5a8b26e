"""What a comparison of tokenizers shows and what it does not: data, budget, seeds, machine."""

from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.comparison import ComparedRun, Comparison, shared
from pipeline.report.files import dig
from pipeline.report.html import Markup, absent, section, table, tag
from pipeline.report.tokenizers import vocab_size

# What arms should have in common, so that their scores differ by what they are.
TRAINING = (
    ("engine", "num_steps"),
    ("engine", "num_samples"),
    ("engine", "global_batch"),
    ("engine", "optimizer"),
    ("engine", "schedule"),
    ("engine", "precision"),
    ("data",),
)
_BUDGET = (
    *TRAINING,
    ("engine", "eval_samples"),
    ("tokenizer", "patch_px"),
    ("tokenizer", "crop_px"),
    ("tokenizer", "width"),
    ("tokenizer", "encoder_depth"),
    ("tokenizer", "augment"),
)

SHORT_RUN = (
    "A short run of small models ranks arms at this budget. Which one wins after long training, or at "
    "another size, it does not say."
)


def limits_section(found: Found) -> Markup:
    """Sentences that follow from the files, then a table of the arms."""
    title, comparison = "What it shows, and what it does not", found.comparison
    if comparison is None or not comparison.runs:
        return section("limits", title, absent("experiment.yaml names no run."))
    items = [tag("li", text) for text in _sentences(found, comparison)]
    return section("limits", title, tag("ul", items), _arms(comparison))


def _sentences(found: Found, comparison: Comparison) -> list[str]:
    texts = [data_sentence(found)]
    texts.append(_budget(comparison))
    many = len(comparison.seeds) > 1
    texts.append(
        f"{numbers.counted(len(comparison.seeds), 'seed')} per arm. A seed decides initial weights and "
        "the order of windows; arms of one seed see the same windows in the same order. "
        + (
            "The deviation over so few is rough itself."
            if many
            else "One says nothing about chance."
        )
    )
    ranks = {
        int(r.run.record["world_size"]) for r in comparison.runs if r.run.record.get("world_size")
    }
    machines = {r.run.record["host"] for r in comparison.runs if r.run.record.get("host")}
    if ranks:
        where = numbers.counted(max(1, len(machines)), "machine")
        counts = " or ".join(f"{n:,}" for n in sorted(ranks))
        texts.append(
            f"Run on {where}, {counts} rank{'' if ranks == {1} else 's'} each. Steps per second "
            "depend on the machine and on what else it did, scores do not."
        )
    texts.append(
        "Scores are of pixels, not of how well a model learns from the tokens. A decoder that samples "
        "(diffusion) or is taught to look real (GAN) may give up pixel error for sharpness: read PSNR and "
        "SSIM beside the pictures."
    )
    texts.append(SHORT_RUN)
    return texts


def data_sentence(found: Found) -> str:
    """How many samples there were, and of what worth."""
    kind = "synthetic samples, which say nothing about Earth" if found.synthetic else "samples"
    if found.dataset is None:
        return f"Data: {kind}; the data set is not readable from here."
    held_out = [str(s) for s in found.dataset.manifest["splits"] if s != "train"]
    sizes = ", ".join(f"{len(found.dataset.select(s)):,} in {s}" for s in ("train", *held_out))
    return f"Data: {found.dataset.num_samples:,} {kind} ({sizes})."


def _budget(comparison: Comparison) -> str:
    different: dict[str, list[str]] = {}
    for name in comparison.modalities:
        for path in _BUDGET:
            values = shared(comparison.of(name), *path)
            if len(values) > 1:
                different.setdefault(".".join(path), []).append(name)
    if different:
        told = "; ".join(f"{key} ({', '.join(names)})" for key, names in different.items())
        return f"The budget is not the same for all arms. Different are: {told}."
    first = next((r.run for r in comparison.runs if r.run.config), None)
    if first is None:
        return "No run has started, so nothing is known about budgets."
    seen = first.num_steps * first.global_batch
    return (
        f"The budget is the same for all arms of a modality: {first.num_steps:,} steps of "
        f"{first.global_batch} windows, {seen:,} in all (in {dig(first.config, 'modality')}), "
        "optimizer, encoder. Parameters and time per step are not."
    )


def _arms(comparison: Comparison) -> Markup:
    plan = comparison.plan.get("arms") or {}
    rows = []
    for arm in comparison.arms:
        runs = [r for r in comparison.runs if r.arm == arm and r.run.config]
        changes = ", ".join(str(text) for text in plan.get(arm) or ()) or "nothing"
        rows.append([tag("b", arm), *_cells(runs), tag("code", changes)])
    head = (
        "Arm",
        "Quantizer",
        "Decoder",
        "Encoder",
        "Codes",
        "Latent width",
        "Window",
        "Patch",
        "Changes",
    )
    return table("The arms, as their runs resolved them", head, rows, words=(0, 1, 2, 3, 8))


def _cells(runs: list[ComparedRun]) -> list[object]:
    if not runs:
        return ["–"] * 7
    first = runs[0].run
    tokenizer = dig(first.config, "tokenizer") or {}
    quantizer = tokenizer.get("quantizer")
    levels = dig(tokenizer, "fsq", "levels")
    latent = len(levels or ()) if quantizer == "fsq" else dig(tokenizer, "vq", "latent_width")
    crop = tokenizer.get("crop_px")
    patch = tokenizer.get("patch_px")
    return [
        quantizer,
        tokenizer.get("decoder"),
        f"{tokenizer.get('encoder_depth')} blocks of {tokenizer.get('width')}",
        numbers.number(vocab_size(first)),
        numbers.number(latent),
        f"{crop} px" if crop else "whole tile",
        f"{patch} px" if patch else "the registry's",
    ]
