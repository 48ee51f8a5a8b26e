"""Backbones side by side on labels: by amount of labels, with inputs missing, errors, pictures."""

import sys
from collections.abc import Callable, Iterable

import numpy as np

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.cells import MISSING, map_cell, picture_table
from pipeline.report.collect import Found
from pipeline.report.curves import Line, arm_key, arm_style, chart
from pipeline.report.files import Record
from pipeline.report.html import Markup, absent, details, scroll, section, table, tag
from pipeline.report.pictures import Painter, legend_of
from pipeline.report.transfer import Transferred
from pipeline.transfer.metrics import HIGHER_IS_BETTER, MAIN
from pipeline.transfer.summary import print_summary, shown, summary

ALL = "all"
_MAX_CLASSES = 20
Entry = dict


def transfer_section(found: Found, painter: Painter) -> Markup:
    """A part per task."""
    title = "Transfer"
    if not any(t.lines for t in found.transfers):
        return section("transfer", title, absent("Nothing was judged on labels yet."))
    lead = (
        "Labels that the backbones have not seen, always with the same heads, subsets and schedules. With "
        "several seeds numbers are means with standard deviations over seeds, with one they come with 95 % "
        "intervals over test samples."
    )
    tasks = dict.fromkeys(line["task"] for t in found.transfers for line in t.lines)
    parts = [_task(task, found, painter) for task in tasks]
    return section("transfer", title, tag("p", lead, class_="lead"), parts)


def _task(task: str, found: Found, painter: Painter) -> Markup:
    entries = {arm: _entries(found.transfers, arm, task) for arm in arms(found)}
    first = next(e for found_ in entries.values() for e in found_)
    metric = MAIN[first["type"]]
    head = tag("h3", task, " ", tag("small", f"{first['type']}, {metric}"))
    return tag(
        "article", head,
        _by_labels(entries, metric),
        _by_inputs(entries, metric),
        _curves(found, task, metric),
        _confusions(found, task),
        _sheets(found, task, painter),
    )  # fmt: skip


def print_transfers(found: Found) -> None:
    """The tables of every arm to the person at the terminal."""
    for arm in arms(found):
        sys.stdout.write(f"{arm}\n")
        sys.stdout.flush()
        print_summary([x for t in found.transfers if t.arm == arm for x in t.lines])


def arms(found: Found) -> list[str]:
    """All that were judged, in their order."""
    return list(dict.fromkeys(t.arm for t in found.transfers))


def _entries(transfers: Iterable[Transferred], arm: str, task: str) -> list[Entry]:
    lines = [x for t in transfers if t.arm == arm for x in t.lines if x["task"] == task]
    return summary(lines)


def _by_labels(entries: dict[str, list[Entry]], metric: str) -> Markup:
    """A row per arm and protocol, a column per amount of labels; the best of a column stands out."""
    amounts = _distinct(entries, "labels")
    rows = _rows(entries, lambda e: e["test_on"] == ALL and e["train_on"] == ALL, "labels")
    best = {a: _best([r[a] for *_, r in rows if a in r], metric) for a in amounts}
    counts = {e["labels"]: e["num_train"] for found in entries.values() for e in found}
    head = ("Backbone", "Protocol", *(f"{a} ({counts[a]:,})" for a in amounts))
    body = [
        [
            tag("b", arm, class_="line"),
            protocol,
            *(_cell(r.get(a), metric, best[a]) for a in amounts),
        ]
        for arm, protocol, r in rows
    ]
    caption = f"{metric} on test samples by amount of labels (training samples), all inputs given"
    return table(caption, head, body, words=(0, 1))


def _by_inputs(entries: dict[str, list[Entry]], metric: str) -> Markup | None:
    """A row per arm, protocol and what it was trained on; a column per what it was tested on."""
    tests = _distinct(entries, "test_on")
    if len(tests) < 2:
        return None
    most = _most_labels(entries)
    parts = []
    for trained in _distinct(entries, "train_on"):
        rows = _rows(
            entries, lambda e, t=trained: e["train_on"] == t and e["labels"] == most, "test_on"
        )
        body = [
            [
                tag("b", arm, class_="line"),
                protocol,
                *(_cell(r.get(t), metric, None) for t in tests),
            ]
            for arm, protocol, r in rows
        ]
        caption = (
            f"{metric} by what is given in testing; trained on {trained}, {most} of the labels"
        )
        parts.append(table(caption, ("Backbone", "Protocol", *tests), body, words=(0, 1)))
    return tag("div", parts)


def _rows(
    entries: dict[str, list[Entry]], wanted: Callable[[Entry], bool], column: str
) -> list[tuple[str, str, dict[str, Entry]]]:
    """(arm, protocol, {column: entry})."""
    rows: dict[tuple[str, str], dict[str, Entry]] = {}
    for arm, found in entries.items():
        for e in found:
            if wanted(e):
                protocol = (
                    e["protocol"] if e["head"] == "linear" else f"{e['protocol']}, {e['head']}"
                )
                rows.setdefault((arm, protocol), {})[e[column]] = e
    return [(arm, protocol, row) for (arm, protocol), row in rows.items()]


def _cell(entry: Entry | None, metric: str, best: float | None) -> object:
    if entry is None:
        return "–"
    text = shown(metric, entry["metrics"][metric]).replace("-", "–")
    return tag("b", text) if best is not None and entry["metrics"][metric]["mean"] == best else text


def _best(entries: list[Entry], metric: str) -> float | None:
    values = [e["metrics"][metric]["mean"] for e in entries]
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return None
    return max(known) if metric in HIGHER_IS_BETTER else min(known)


def _distinct(entries: dict[str, list[Entry]], key: str) -> list[str]:
    return list(dict.fromkeys(e[key] for found in entries.values() for e in found))


def _most_labels(entries: dict[str, list[Entry]]) -> str:
    counts = {e["labels"]: e["num_train"] for found in entries.values() for e in found}
    return max(counts, key=lambda label: counts[label])


def _curves(found: Found, task: str, metric: str) -> Markup | None:
    """Validation over the steps, per protocol: the first seed with the most labels."""
    names = arms(found)
    charts = []
    for protocol in ("probe", "finetune"):
        lines, last = [], 1
        for number, arm in enumerate(names):
            chosen = _chosen(found, arm, task, protocol)
            history = chosen.get("history") or []
            points = [
                (float(h["step"]), float(h["val"])) for h in history if h.get("val") is not None
            ]
            lines.append(Line(arm_style(number), points))
            last = max([last, *(round(x) for x, _ in points)])
        if any(line.points for line in lines):
            ends = ", ".join(
                f"{a} {numbers.number(x.points[-1][1])}"
                for a, x in zip(names, lines, strict=True)
                if x.points
            )
            title = f"Validation {metric}, {protocol}"
            charts.append(chart(title, "", lines, last, log=False, spoken=f"at the end: {ends}"))
    if not charts:
        return None
    return tag("div", arm_key(names), tag("div", charts, class_="charts"))


def _chosen(found: Found, arm: str, task: str, protocol: str = "") -> Record:
    """The line of the most labels and the first seed, all inputs given."""
    lines = [
        x
        for t in found.transfers
        if t.arm == arm
        for x in t.lines
        if x["task"] == task and x["test_on"] == ALL and protocol in ("", x["protocol"])
    ]
    return max(lines, key=lambda x: (x.get("num_train", 0), -x["seed"]), default={})


def _confusions(found: Found, task: str) -> list[Markup]:
    """Shares of each true class, per arm: what is taken for what."""
    parts = []
    for arm in arms(found):
        line = _chosen(found, arm, task)
        matrix = np.array(line.get("confusion") or [], dtype=np.float64)
        names = [str(n) for n in line.get("classes") or range(len(matrix))]
        there = np.flatnonzero(matrix.sum(1)) if matrix.ndim == 2 else []
        if not len(there) or len(there) > _MAX_CLASSES:
            continue
        rows = [
            [names[t], *(_share(matrix[t, p] / matrix[t].sum(), t == p) for p in there)]
            for t in there
        ]
        caption = (
            f"True class by row, predicted class by column; {line['protocol']}, {line['labels']}"
        )
        shown_ = table(caption, ("True", *(names[p] for p in there)), rows)
        parts.append(details(f"Confusions of {arm}", shown_))
    return parts


def _share(share: float, hit: bool) -> Markup:
    colour = "var(--good)" if hit else "var(--bad)"
    mixed = f"background:color-mix(in srgb, {colour} {round(60 * share)}%, transparent)"
    return tag("span", numbers.percent(share), style=mixed)


def _sheets(found: Found, task: str, painter: Painter) -> list[Markup]:
    """Input, predictions and truth of a few test samples, per arm: of the cell with the most labels."""
    parts = []
    for arm in arms(found):
        line = _chosen(found, arm, task)
        name = str(line.get("name", ""))
        run = next((t for t in found.transfers if t.arm == arm and name in t.sheets), None)
        row = Modality.model_validate(line["label"]) if line.get("label") else None
        if run is None or row is None:
            continue
        arrays = run.sheet(name, found.notes)
        if "predicted" in arrays and "truth" in arrays:
            parts.append(details(f"Predictions of {arm}", _sheet(arrays, row, found, painter)))
    return parts


def _sheet(arrays: dict[str, np.ndarray], row: Modality, found: Found, painter: Painter) -> Markup:
    source = found.modality(str(arrays.get("input_name", "")))
    images = arrays.get("input") if source is not None else None
    columns = [r for r in (source if images is not None else None, row, row) if r is not None]
    words = [
        *([source.name] if source is not None and images is not None else []),
        "predicted",
        "truth",
    ]
    body = []
    for n, key in enumerate(map(str, arrays["keys"])):
        maps = [arrays["predicted"][n], arrays["truth"][n]]
        cells = [
            map_cell(painter, row, maps, alt=f"predicted, {key}"),
            map_cell(painter, row, maps[::-1], alt=f"truth, {key}"),
        ]
        if images is not None and source is not None:
            fits = images[n].shape[0] == source.num_bands
            shown_ = map_cell(painter, source, [images[n]], alt=f"{source.name}, {key}")
            cells.insert(0, shown_ if fits else MISSING)
        body.append(tag("tr", [tag("td", cell) for cell in cells]))
    head = tag("tr", [tag("th", word, scope="col") for word in words])
    grid = picture_table("Input, prediction and truth", head, body, columns)
    legend = legend_of(row, [arrays["predicted"], arrays["truth"]])
    return tag(
        "div", scroll("Predictions", grid), tag("dl", legend, class_="legends") if legend else None
    )
