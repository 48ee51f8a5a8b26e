"""What the shards hold: who is present, and a look at a few held-out samples."""

import numpy as np

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.cells import MISSING, map_cell, value_span, words_cell
from pipeline.report.collect import Found
from pipeline.report.html import Markup, absent, details, scroll, section, table, tag
from pipeline.report.pictures import Painter, legend_of
from shards import Dataset, ShardError

_NUM_SAMPLES = 4


def samples_section(found: Found, painter: Painter) -> Markup:
    """Presence, pictures, statistics."""
    title, dataset = "Samples in the shards", found.dataset
    if dataset is None:
        return section("samples", title, absent("No shards: shards/manifest.json is missing."))
    return section(
        "samples",
        title,
        _presence(dataset),
        _pictures(dataset, painter),
        _statistics(dataset),
        _class_shares(dataset),
    )


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
    return table(caption, head, rows, text_columns=3)


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
    caption = tag("caption", f"Samples of the split {split}", class_="hidden")
    grid = tag("table", caption, tag("thead", head), tag("tbody", body), class_="pictures")
    legends = [legend_of(row, []) for row in rows.values()]
    return Markup(
        tag("h3", f"A few samples of the split “{split}”")
        + scroll("Pictures of samples", grid)
        + tag("dl", legends, class_="legends")
    )


def _name(row: Modality) -> Markup:
    return tag("th", row.name, scope="col", title=row.title)


def _row(dataset: Dataset, rows: dict[str, Modality], i: int, painter: Painter) -> Markup:
    parts, meta, key = dataset.read(i, rows), dataset.meta(i), dataset.keys[i]
    place = (
        f"{meta.lon:.2f}°, {meta.lat:.2f}°" if meta.lon is not None and meta.lat is not None else ""
    )
    cells = [tag("th", tag("span", key), tag("small", place), scope="row", class_="input")]
    for name, row in rows.items():
        part = parts.get(name)
        if part is None:
            inner = MISSING
        elif row.is_map and isinstance(part, np.ndarray):
            note = value_span(part, row)
            inner = map_cell(painter, row, [part], alt=f"{name} of sample {key}", note=note)
        else:
            inner = words_cell(part)
        cells.append(tag("td", inner, class_="first" if row.is_map else "text"))
    return tag("tr", cells)


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
