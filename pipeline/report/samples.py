"""What the shards hold: who is present, and a look at a few held-out samples."""

import numpy as np

from configs.schema import Modality
from pipeline.data.views import Views
from pipeline.report import numbers
from pipeline.report.cells import MISSING, map_cell, picture_table, value_span, words_cell
from pipeline.report.collect import Found
from pipeline.report.html import Markup, absent, details, scroll, section, table, tag
from pipeline.report.pictures import Painter, legend_of
from shards import Dataset, ShardError

_NUM_SAMPLES = 4


def samples_section(found: Found, painter: Painter) -> Markup:
    """Presence, pictures, statistics."""
    title, dataset = "Samples in the shards", found.dataset
    if dataset is None:
        return section("samples", title, absent(_why_not(found)))
    return section(
        "samples",
        title,
        _presence(dataset),
        _pictures(dataset, painter),
        _tokens(dataset),
        _statistics(dataset),
        _class_shares(dataset),
    )


def _why_not(found: Found) -> str:
    if (found.folder / "shards" / "manifest.json").is_file():
        return "The shards cannot be read; the reason stands at the end of the page."
    return "No finished data set: shards/manifest.json is missing."


def _presence(dataset: Dataset) -> Markup:
    splits = [str(split) for split in dataset.manifest["splits"]]
    members = {split: dataset.select(split) for split in splits}
    head = ["Modality", "What it is", "Unit", "Bands", "Ground sampling"]
    head += [f"{split} ({len(ids):,})" for split, ids in members.items()]
    rows = []
    for name, row in dataset.modalities.items():
        present = dataset.present(name)
        shares = [present[ids].mean() if len(ids) else float("nan") for ids in members.values()]
        rows.append(
            [
                tag("b", name),
                row.title,
                numbers.unit(row.unit) or "–",
                row.num_bands or "–",
                f"{row.gsd_m:g} m" if row.gsd_m else "–",
                *(numbers.percent(float(share)) for share in shares),
            ]
        )
    caption = f"Share of samples that have each modality; {_size(dataset)}"
    return table(caption, head, rows, words=range(3))


def _size(dataset: Dataset) -> str:
    shards = dataset.manifest["shards"]
    total = sum(shard["tar_bytes"] for shard in shards) / 1e6
    bad = dataset.manifest.get("num_quarantined") or 0
    parts = [
        numbers.counted(dataset.num_samples, "sample"),
        f"{numbers.counted(len(shards), 'shard')} of {total:,.1f} MB together",
    ]
    if bad:
        parts.append(f"{numbers.counted(bad, 'unusable sample')} left out")
    return ", ".join(parts)


def _pictures(dataset: Dataset, painter: Painter) -> Markup:
    from shards.preview import spread

    split = "val" if "val" in dataset.manifest["splits"] else dataset.manifest["splits"][0]
    chosen = spread(dataset.select(split), _NUM_SAMPLES)
    if not len(chosen):
        return absent(f"The split {split} has no samples to show.")
    rows = dataset.modalities
    try:
        body = [_row(dataset, rows, int(i), painter) for i in chosen]
    except (ShardError, OSError) as error:
        return absent(f"Samples cannot be shown: {error}")
    head = tag("tr", tag("th", "sample", scope="col"), [_name(row) for row in rows.values()])
    grid = picture_table(f"Samples of the split {split}", head, body, rows.values(), room=1.2)
    legends = [legend_of(row) for row in rows.values()]
    return Markup(
        tag("h3", f"A few samples of the split “{split}”")
        + scroll("Pictures of samples", grid)
        + tag("dl", legends, class_="legends")
    )


def _name(row: Modality) -> Markup:
    return tag("th", row.name, scope="col", title=row.title)


def _row(dataset: Dataset, rows: dict[str, Modality], i: int, painter: Painter) -> Markup:
    from shards.preview import as_text

    parts, meta, key = dataset.read(i, rows), dataset.meta(i), dataset.keys[i]
    place = _place(meta.lon, meta.lat)
    cells = [tag("th", tag("span", key), tag("small", place), scope="row", class_="input")]
    for name, row in rows.items():
        part = parts.get(name)
        if part is None:
            inner = MISSING
        elif row.is_map and isinstance(part, np.ndarray):
            note = value_span(part, row)
            inner = map_cell(painter, row, [part], alt=f"{name} of sample {key}", note=note)
        else:
            inner = words_cell(as_text(part, row) if row.kind == "vector" else part)
        cells.append(tag("td", inner, class_="first" if row.is_map else "text"))
    return tag("tr", cells)


def _place(lon: float | None, lat: float | None) -> str:
    if lon is None or lat is None:
        return ""
    return f"{abs(lat):.1f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.1f}° {'E' if lon >= 0 else 'W'}"


def _tokens(dataset: Dataset) -> Markup | None:
    """What `tokenize` wrote beside the pixels."""
    rows = []
    for extra in dataset.extras:
        info = dataset.extra_manifest(extra).get("info") or {}
        views = len(Views(**info["views"])) if "views" in info else None
        counts = [info.get("num_tokens"), views, info.get("vocab_size")]
        share = numbers.percent(float(dataset.present(extra).mean()))
        rows.append([extra, *(numbers.number(count) for count in counts), share])
    if not rows:
        return absent("No tokens beside the pixels: nothing has been tokenized yet.")
    head = ("Tokens", "Tokens per view, at most", "Views", "Vocabulary", "Present")
    return details("Tokens beside the pixels", table("Over all splits", head, rows))


def _statistics(dataset: Dataset) -> Markup | None:
    rows = [
        [f"{name} {band}", numbers.with_unit(mean, row.unit), numbers.with_unit(std, row.unit)]
        for name, row in dataset.modalities.items()
        if name in dataset.statistics
        for band, mean, std in zip(row.bands, *dataset.statistics[name], strict=True)
    ]
    if not rows:
        return None
    shown = table("Over the train split, where pixels carry a measurement",
                  ("Band", "Mean", "Standard deviation"), rows)  # fmt: skip
    return details("Mean and standard deviation per band", shown)


def _class_shares(dataset: Dataset) -> list[Markup]:
    found = []
    for name, counts in dataset.class_counts.items():
        total = max(1, int(counts.sum()))
        rows = [
            [c.name, numbers.percent(float(counts[c.value]) / total)]
            for c in dataset.modalities[name].classes
        ]
        shown = table("Over the train split", ("Class", "Share of pixels"), rows)
        found.append(details(f"Share of pixels per {name} class", shown))
    return found
