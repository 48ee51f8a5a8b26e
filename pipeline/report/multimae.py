"""A run of MultiMAE: curves, scores of hidden pixels beside a trivial guess, and reconstructions."""

from collections.abc import Mapping

import numpy as np

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.cells import MISSING, map_cell, picture_table
from pipeline.report.collect import Found
from pipeline.report.curves import Line, chart, key
from pipeline.report.files import dig, read_arrays, read_json
from pipeline.report.html import Markup, absent, join, scroll, section, table, tag
from pipeline.report.pictures import Painter, legend_of
from pipeline.report.runs import TrainingRun
from pipeline.report.scores import picture_score

TITLE = "MultiMAE: reconstruction of hidden patches"
WAYS = ("visible", "reconstruction", "truth")


def multimae_section(found: Found, painter: Painter) -> Markup:
    """Everything about the run; what is not there yet is named."""
    run = found.multimae
    if run is None or not run.train:
        return section("multimae", TITLE, absent("No metrics.jsonl yet."))
    loss = [Line("train", run.curve("loss")), Line("eval", run.eval_curve("loss"))]
    tasks = list(dict.fromkeys(k[5:] for line in run.train for k in line if k.startswith("loss/")))
    panels = [
        chart(
            task,
            "",
            [
                Line("train", run.curve(f"loss/{task}")),
                Line("eval", run.eval_curve(f"loss/{task}")),
            ],
            run.num_steps,
        )
        for task in tasks
    ]
    return section(
        "multimae",
        TITLE,
        None if run.done else tag("p", run.state, class_="state"),
        _scores(found, run),
        _pictures(found, run, painter),
        key("train", "eval"),
        tag("div", chart("Loss, sum over tasks", "", loss, run.num_steps), panels, class_="charts"),
    )


def _scores(found: Found, run: TrainingRun) -> Markup:
    """Held-out scores of each group, with the masks of evaluation."""
    values, rows = run.last_eval, []
    others = read_json(run.folder / "scores.json", found.notes).get("from_others", {})
    groups = dig(run.config, "multimae", "groups") or {}
    for name, group in groups.items():
        row = found.modality(group["modality"])
        unit = numbers.unit(row.unit) if row else ""
        for metric in ("rmse", "mae", "accuracy", "miou"):
            if f"{metric}/{name}" in values:
                made, guess = (values[f"{w}{metric}/{name}"] for w in ("", "guess_"))
                words = (
                    [numbers.METRIC_TITLES[metric], unit]
                    if unit
                    else [numbers.METRIC_TITLES[metric]]
                )
                alone = others.get(name, {}).get(f"{metric}/{name}")
                shown = (numbers.score(metric, value) for value in (made, alone, guess))
                rows.append([tag("b", name), ", ".join(words), *shown])
    if not rows:
        return absent("Not evaluated on held-out samples yet.")
    caption = "Hidden pixels of held-out samples; the guess is the mean, or the most frequent class"
    return table(
        caption, ("Group", "Score", "Model", "From the others alone", "Guess"), rows, words=(0, 1)
    )


def _pictures(found: Found, run: TrainingRun, painter: Painter) -> Markup:
    """A row per group; of each sample what was seen, what was made of it, and the truth."""
    from pipeline.multimae.artifact import describe
    from pipeline.multimae.pictures import row_of, shown_groups

    arrays = read_arrays(run.folder / "reconstructions.npz", found.notes)
    if "keys" not in arrays or not (run.folder / "artifact" / "config.json").is_file():
        return absent("No reconstructions yet: the run has not finished.")
    about = describe(run.folder / "artifact")
    keys = [str(k) for k in arrays["keys"]]
    head = [
        tag(
            "tr",
            tag("th", "", scope="col"),
            [tag("th", k, colspan=3, scope="colgroup") for k in keys],
        ),
        tag(
            "tr",
            tag("th", "group", scope="col"),
            [tag("th", w, scope="col") for _ in keys for w in WAYS],
        ),
    ]
    body, legends, shown = [], [], []
    for group in shown_groups(about.table):
        row = row_of(group, found.modality(group.modality) or about.rows[group.modality])
        cells = [_cells(arrays, group.name, row, r, key, painter) for r, key in enumerate(keys)]
        body.append(tag("tr", tag("th", group.name, scope="row"), cells))
        legends.append(legend_of(row, [arrays[f"truth/{group.name}"]]))
        shown = [row] * 3 * len(keys)
    lead = tag("p", "Below a reconstruction stands its score over hidden pixels.", class_="lead")
    grid = picture_table("visible, reconstructed and true windows", head, body, shown, room=1.0)
    return join([lead, scroll("Reconstructions", grid), tag("dl", legends, class_="legends")])


def _cells(
    arrays: Mapping[str, np.ndarray], name: str, row: Modality, r: int, key: str, painter: Painter
) -> list[Markup]:
    if not arrays[f"there/{name}"][r]:
        return [tag("td", MISSING), tag("td", ""), tag("td", "")]
    from pipeline.multimae.pictures import visible_picture

    truth, made, seen = (arrays[f"{what}/{name}"][r] for what in ("truth", "made", "seen"))
    nothing = np.asarray(np.nan if row.nodata is None else row.nodata).astype(truth.dtype)
    note = "" if seen.all() else picture_score(made, np.where(seen, nothing, truth), row)
    alts = [f"{name} {way}, {key}" for way in WAYS]
    return [
        tag("td", painter.image(visible_picture(truth, made, seen, row), alts[0], row)),
        tag("td", map_cell(painter, row, [made, truth], alt=alts[1], note=note)),
        tag("td", map_cell(painter, row, [truth, made], alt=alts[2])),
    ]
