"""Stage 1: what the tokenizers keep of each modality, in pictures and in numbers."""

import math
import statistics

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.cells import MISSING, fitting, pair_cells, unfinished
from pipeline.report.collect import Found
from pipeline.report.files import dig, read_arrays
from pipeline.report.html import Markup, absent, join, section, table, tag, terms
from pipeline.report.pictures import Painter, legend_of
from pipeline.report.runs import TrainingRun

_FILE = "reconstructions.npz"


def stage1_section(found: Found, painter: Painter) -> Markup:
    """Input beside reconstruction per modality, then a table of all tokenizers."""
    title = "Stage 1: tokenizers"
    if not found.stage1:
        return section("stage1", title, absent("No tokenizers: stage1/ is missing."))
    rows = {name: found.modality(name) for name in found.stage1}
    maps = {name: row for name, row in rows.items() if row and row.is_map}
    cards = [_card(found.stage1[name], row, painter, found.notes) for name, row in maps.items()]
    lead = (
        "Held-out samples before and after a trip through their tokens: what is lost here, no later "
        "stage can bring back."
    )
    return section(
        "stage1",
        title,
        tag("p", lead, class_="lead"),
        _missing(found),
        tag("div", cards, class_="cards"),
        _table(found, rows),
    )


def vocab_size(run: TrainingRun) -> int | None:
    """Number of codes: of a text from its artifact, else the product of the quantizer's levels."""
    if run.vocab_size is not None:
        return run.vocab_size
    if dig(run.config, "tokenizer", "quantizer") == "vq":
        return dig(run.config, "tokenizer", "vq", "num_codes")
    levels = dig(run.config, "tokenizer", "fsq", "levels")
    return math.prod(levels) if isinstance(levels, list) and levels else None


def _missing(found: Found) -> Markup | None:
    """Names the modalities that stage 2 wants tokens of and nobody has trained a tokenizer for."""
    masked = dig(found.stage2.config, "masked") if found.stage2 else None
    wanted = [*(dig(masked, "tokens") or []), *(dig(masked, "targets") or [])]
    names = []
    for name in dict.fromkeys(wanted):
        row = found.modality(name)
        if row and (row.is_map or row.kind == "text") and name not in found.stage1:
            names.append(name)
    return absent(f"No tokenizer of {', '.join(names)}, which stage 2 uses.") if names else None


def _card(run: TrainingRun, row: Modality, painter: Painter, notes: list[str]) -> Markup:
    head = tag("h3", row.name, " ", tag("small", row.title))
    arrays = read_arrays(run.folder / _FILE, notes)
    if not all(fitting(arrays, name, row) for name in ("truth", "restored")):
        late = tag("p", run.state, class_="state") if not run.done else None
        return tag("article", head, late, unfinished(row.name, _FILE), class_="card")
    truths, restored = arrays["truth"], arrays["restored"]
    pairs = [
        pair_cells(painter, row, guess, truth, key=f"sample {i + 1}", word="reconstruction")
        for i, (truth, guess) in enumerate(zip(truths, restored, strict=False))
    ] or [(MISSING, MISSING)]
    grid = tag(
        "table",
        tag(
            "tbody",
            tag("tr", tag("th", "input", scope="row"), [tag("td", p[1]) for p in pairs]),
            tag("tr", tag("th", "restored", scope="row"), [tag("td", p[0]) for p in pairs]),
        ),
        class_="strip",
        aria_label=f"{row.name}: input above, reconstruction below",
    )
    key = tag("dl", legend_of(row, [truths, restored]), class_="legends")
    return tag("article", head, grid, key, class_="card")


def _table(found: Found, rows: dict[str, Modality | None]) -> Markup:
    head = ("Modality", "Unit", "RMSE", "MAE", "Accuracy", "mIoU", "Vocabulary", "Codes used",
            "Perplexity", "Patch", "Steps", "Samples/s", "State")  # fmt: skip
    body = [_table_row(name, run, rows[name]) for name, run in found.stage1.items()]
    shown = table("Scores on held-out samples at the last evaluation", head, body, words=(0, 1, 12))
    return join([shown, terms({
        "Codes used": "share of the vocabulary that occurs in the held-out samples.",
        "Perplexity": "how many equally likely codes would be as varied.",
        "RMSE, MAE": "over all bands and pixels that carry a measurement.",
    })])  # fmt: skip


def _table_row(name: str, run: TrainingRun, row: Modality | None) -> list[object]:
    values, unit = run.last_eval, numbers.unit(row.unit) if row else ""
    is_text = row is not None and row.kind == "text"
    speeds = [speed for _, speed in run.curve("samples_per_s")]
    patch = dig(run.config, "tokenizer", "patch_px") or (row.patch_px if row else None)
    return [
        tag("b", name),
        unit or "–",
        *(numbers.number(values[k]) if k in values else "–" for k in ("rmse", "mae")),
        *(numbers.percent(values[k]) if k in values else "–" for k in ("accuracy", "miou")),
        numbers.number(vocab_size(run)),
        numbers.percent(values["codes_used"]) if "codes_used" in values else "–",
        numbers.number(values["perplexity"]) if "perplexity" in values else "–",
        f"{patch} px" if patch and not is_text else "–",
        f"{run.step:,}" if run.train else "–",
        numbers.number(statistics.median(speeds)) if speeds else "–",
        run.state,
    ]
