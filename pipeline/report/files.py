"""Files that runs leave, read in whatever state they are.

Nothing here raises for a file that is missing, unfinished or damaged: what is missing is empty, what is
damaged is named in `notes`.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Record = dict[str, Any]


def read_arrays(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """All arrays of an npz file; empty when there is none, or when it is damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        notes.append(f"{path} is not readable: {error}")
        return {}


def dig(values: object, *keys: str) -> Any:
    """`values[a][b]...`, or None where any of it is missing."""
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def read_lines(path: Path, notes: list[str]) -> list[Record]:
    """The lines of metrics.jsonl: those with a step."""
    return [line for line in read_objects(path, notes) if isinstance(line.get("step"), int)]


def read_objects(path: Path, notes: list[str]) -> list[Record]:
    """All whole lines of a JSON-lines file; those that a crash cut off are left out."""
    lines = []
    for text in _text(path, notes).splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def read_json(path: Path, notes: list[str]) -> Record:
    """A JSON object; empty when there is none."""
    text = _text(path, notes)
    try:
        values = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        notes.append(f"{path} is not readable: {error}")
        return {}
    return values if isinstance(values, dict) else {}


def read_yaml(path: Path, notes: list[str]) -> Record:
    """A YAML mapping; empty when there is none."""
    try:
        values = yaml.safe_load(_text(path, notes))
    except yaml.YAMLError as error:
        notes.append(f"{path} is not readable: {error}")
        return {}
    return values if isinstance(values, dict) else {}


def _text(path: Path, notes: list[str]) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path} is not readable: {error}")
        return ""
