"""`python -m pipeline report FOLDER`: one HTML file that needs nothing else, and the score table.

Sections, in order: what was run, generated maps, scores, stage 1, curves, stage 2, MultiMAE where there
is one, samples, provenance;
of a comparison of tokenizers: what was run, scores, curves, reconstructions, what it shows, samples,
provenance; of models: scores, missing inputs, probes, curves, what it shows, stage 1, samples, provenance.
A part that is missing or unfinished is named in its place. Pictures travel inside the file; when it would
grow past `LIMIT_BYTES` they are drawn smaller.
"""

import sys
from pathlib import Path

from configs import ConfigError
from pipeline.report.collect import Found, collect
from pipeline.report.compared import compared_section, print_comparison
from pipeline.report.compared_curves import compared_curves_section
from pipeline.report.compared_limits import limits_section
from pipeline.report.compared_pictures import compared_pictures_section
from pipeline.report.generated import generated_section
from pipeline.report.glance import header
from pipeline.report.html import Markup, tag
from pipeline.report.models_curves import models_curves_section
from pipeline.report.models_limits import models_limits_section
from pipeline.report.models_table import (
    missing_section,
    models_section,
    print_models,
    probes_section,
)
from pipeline.report.multimae import multimae_section
from pipeline.report.pictures import Painter
from pipeline.report.provenance import provenance_section
from pipeline.report.samples import samples_section
from pipeline.report.score_table import print_scores, score_section
from pipeline.report.tokenizers import stage1_section
from pipeline.report.training import curves_section, stage2_section
from pipeline.report.transfer_table import print_transfers, transfer_section

LIMIT_BYTES = 6_000_000
_SIDES_PX = (256, 192, 144, 108, 80, 60)

_STYLE = Path(__file__).with_name("style.css")
_SECTIONS = {
    "generated": "Generated maps",
    "scores": "Scores",
    "stage1": "Stage 1",
    "curves": "Loss curves",
    "stage2": "Stage 2",
    "multimae": "MultiMAE",
    "transfer": "Transfer",
    "samples": "Samples",
    "provenance": "Provenance",
}
_OF_COMPARISON = {
    "compared": "Scores",
    "curves": "Curves",
    "pictures": "Reconstructions",
    "limits": "What it shows",
    "samples": "Samples",
    "provenance": "Provenance",
}
_OF_MODELS = {
    "models": "Scores",
    "missing": "With inputs missing",
    "probes": "Probes",
    "transfer": "Transfer",
    "curves": "Curves",
    "limits": "What it shows",
    "stage1": "Stage 1",
    "samples": "Samples",
    "provenance": "Provenance",
}
_OF_SINGLE = {
    "shards": ("samples", "provenance"),
    "stage1": ("stage1", "curves", "provenance"),
    "stage2": ("stage2", "provenance"),
    "fusion": ("stage2", "provenance"),
    "multimae": ("multimae", "provenance"),
    "generate": ("generated", "scores", "provenance"),
    "transfer": ("transfer", "provenance"),
}
# Of evaluations, which a comparison need not have.
_EVALUATED = ("models", "missing", "probes", "limits")


_MODEL_SECTIONS = {
    "models": models_section,
    "missing": missing_section,
    "probes": probes_section,
    "curves": models_curves_section,
    "limits": models_limits_section,
}


def write_report(folder: Path, out: Path) -> None:
    """Write the page about `folder` to `out`; print the score table and the page's path.

    Raises ConfigError when the folder is missing or `out` cannot be written.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name that of a run or of an experiment")
    found = collect(folder)
    text = _fitting(found)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}; write --out FILE") from error
    if found.comparison:
        print_comparison(found)
    elif found.models and _is_told("models", found):
        print_models(found)
    elif found.transfers:
        print_transfers(found)
    elif found.single in ("", "generate"):
        print_scores(found)
    sys.stdout.write(f"{out.resolve()}\n")
    sys.stdout.flush()


def _fitting(found: Found) -> str:
    """The page with the largest pictures that keep it below the limit."""
    text = ""
    for side in _SIDES_PX:
        text = _page(found, Painter(side))
        if len(text.encode()) <= LIMIT_BYTES:
            break
    return text


def _page(found: Found, painter: Painter) -> str:
    words = _OF_COMPARISON if found.comparison else _OF_MODELS if found.models else _SECTIONS
    names = [n for n in _OF_SINGLE.get(found.single, tuple(words)) if _is_told(n, found)]
    links = [tag("li", tag("a", words[name], href=f"#{name}")) for name in names]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Report: {found.folder.resolve().name}"),
        # Without an icon of its own, a page asks its server for one.
        Markup('<link rel="icon" href="data:,">'),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("a", "To the content", href="#content", class_="skip"),
        header(found),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", [_section(name, found, painter) for name in names], id="content"),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _is_told(name: str, found: Found) -> bool:
    """Whether a part that a run need not have is one of this page's."""
    if found.models and name in _EVALUATED:
        return found.models.plan.get("evaluate") is not None
    if name == "multimae":
        return found.multimae is not None
    return name != "transfer" or found.single == "transfer" or bool(found.transfers)


def _section(name: str, found: Found, painter: Painter) -> Markup:
    if found.models and (of_models := _MODEL_SECTIONS.get(name)):
        return of_models(found)
    match name:
        case "generated":
            return generated_section(found, painter)
        case "scores":
            return score_section(found)
        case "stage1":
            return stage1_section(found, painter)
        case "curves":
            return compared_curves_section(found) if found.comparison else curves_section(found)
        case "compared":
            return compared_section(found)
        case "pictures":
            return compared_pictures_section(found, painter)
        case "limits":
            return limits_section(found)
        case "stage2":
            return stage2_section(found, painter)
        case "multimae":
            return multimae_section(found, painter)
        case "transfer":
            return transfer_section(found, painter)
        case "samples":
            return samples_section(found, painter)
    return provenance_section(found)
