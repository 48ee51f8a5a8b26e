"""Means over seeds of what results.jsonl holds, and the table of them at the terminal."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.transfer.metrics import MAIN
from pipeline.transfer.record import Line

_KEYS = ("task", "type", "init", "merge", "protocol", "head", "train_on", "labels", "test_on")
# Shown where they tell rows apart.
_SOMETIMES = ("init", "head", "merge")
_SHARES = {"accuracy", "f1", "f1_micro", "miou", "map"}


def summary(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """One entry per cell without its seed: {..., seeds, num_train, num_test, metrics: {name: {mean, std}}}.

    With a single seed, `low` and `high` are its interval over test samples.
    """
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(line.get(key) for key in _KEYS), []).append(line)
    found = []
    for key, members in groups.items():
        metrics = {}
        for name, first in members[0]["metrics"].items():
            values = [m["metrics"][name]["value"] for m in members]
            known = [v for v in values if v is not None]
            entry = {"mean": statistics.fmean(known) if known else None}
            if len(known) > 1:
                entry["std"] = statistics.stdev(known)
            elif len(members) == 1:
                entry |= {k: first[k] for k in ("low", "high") if k in first}
            metrics[name] = entry
        found.append(
            dict(zip(_KEYS, key, strict=True))
            | {
                "seeds": [m["seed"] for m in members],
                "num_train": members[0]["num_train"],
                "num_test": members[0]["num_test"],
                "metrics": metrics,
            }
        )
    return found


def latest(lines: Iterable[Line]) -> list[Line]:
    """Of each row, seed and test set the last line.

    Of a folder that has no end yet, what other settings left there is not taken for more seeds.
    """
    found = {}
    for line in lines:
        key = (*(line.get(key) for key in _KEYS), line["seed"])
        found.pop(key, None)
        found[key] = line
    return list(found.values())


def print_summary(lines: Sequence[Line]) -> None:
    """The main metric of every cell to the person at the terminal: a row per cell, a column per test set."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 160
    entries = summary(lines)
    for task in dict.fromkeys(e["task"] for e in entries):
        mine = [e for e in entries if e["task"] == task]
        metric = MAIN[mine[0]["type"]]
        tests = list(dict.fromkeys(e["test_on"] for e in mine))
        table = Table(title=f"{task}: {metric}", title_justify="left")
        more = [key for key in _SOMETIMES if len({e[key] for e in mine}) > 1]
        for name in ("protocol", *more, "trained on", "labels", "samples"):
            table.add_column(name, no_wrap=True)
        for name in tests:
            table.add_column(name, justify="right")
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        for e in mine:
            told = (str(e[key]) for key in more)
            key = (e["protocol"], *told, e["train_on"], e["labels"], str(e["num_train"]))
            rows.setdefault(key, {})[e["test_on"]] = shown(metric, e["metrics"][metric])
        for key, cells in rows.items():
            table.add_row(*key, *(cells.get(name, "-") for name in tests))
        console.print(table, markup=False)


def shown(metric: str, entry: dict[str, float | None]) -> str:
    """`71.3 % ± 0.8` over seeds, or `71.3 % (68.0-74.1)` over test samples; errors as numbers."""
    mean = entry["mean"]
    if mean is None:
        return "n/a"
    scale, digits, unit = (100, 1, " %") if metric in _SHARES else (1, 3, "")

    def text(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    if (std := entry.get("std")) is not None:
        return f"{text(mean)}{unit} ± {text(std)}"
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return f"{text(mean)}{unit}"
    return f"{text(mean)}{unit} ({text(low)}-{text(high)})"
