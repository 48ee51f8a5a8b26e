"""Which codec pays for which modality: measured on the samples of a data set.

    python benchmarks/codecs.py DIR [--samples 64] [--json FILE]

For every map modality and every codec: how many times smaller the stored member is than the raw
array, and MB of raw array per second and thread, compressing and decompressing (medians). A star
marks the codec of the registry; `best` is the smallest of those that decompress at least half as
fast as the fastest one: what a registry row should say when a project's data look like these.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.registry import modality_registry  # noqa: E402
from configs.schema import Codec  # noqa: E402
from shards import open_dataset  # noqa: E402
from shards.codec import decode_blosc2, encode_blosc2  # noqa: E402

_ROUNDS = 5


def candidates(dtype: np.dtype) -> dict[str, Codec]:
    """Codecs worth trying for arrays of a type."""
    found = {
        f"zstd-{level} {name}": Codec.model_validate(
            {"name": "blosc2", "level": level, "filter": name}
        )
        for level, name in ((1, "bitshuffle"), (1, "shuffle"), (1, "none"), (5, "bitshuffle"))
    }
    if dtype.kind in "iu":
        found["zstd-1 bitshuffle delta"] = Codec(name="blosc2", level=1, delta=True)
        found["zstd-1 none delta"] = Codec(name="blosc2", level=1, filter="none", delta=True)
    return found


def measure(arrays: list[np.ndarray], codec: Codec) -> dict[str, float]:
    """Ratio and speeds of one codec over all arrays, each checked to come back equal."""
    raw_mb = sum(a.nbytes for a in arrays) / 1e6
    members: list[bytes] = []

    def encode() -> None:
        members[:] = [encode_blosc2(a, codec) for a in arrays]

    def decode() -> None:
        for member, out in zip(members, outs, strict=True):
            decode_blosc2(member, out)

    outs = [np.empty_like(a) for a in arrays]
    encode_s, decode_s = seconds(encode), seconds(decode)
    for array, out in zip(arrays, outs, strict=True):
        assert array.tobytes() == out.tobytes()
    return {
        "ratio": raw_mb / (sum(map(len, members)) / 1e6),
        "encode_mb_s": raw_mb / encode_s,
        "decode_mb_s": raw_mb / decode_s,
    }


def seconds(do: Callable[[], None]) -> float:
    do()
    taken = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        do()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def rows_of(folder: Path, num: int) -> list[dict[str, Any]]:
    """One row per modality and codec."""
    dataset = open_dataset(folder)
    rows = []
    for name, row in dataset.modalities.items():
        chosen = dataset.select(require=[name])[:num] if row.is_map else []
        arrays = [np.asarray(dataset.read(int(i), [name])[name]) for i in chosen]
        if not arrays:
            continue
        mine = modality_registry().get(name)
        found = [
            {"modality": name, "codec": label, "registry": mine is not None and mine.codec == codec}
            | measure(arrays, codec)
            for label, codec in candidates(arrays[0].dtype).items()
        ]
        fastest = max(r["decode_mb_s"] for r in found)
        quick = [r for r in found if r["decode_mb_s"] >= fastest / 2]
        best = max(quick, key=lambda r: r["ratio"])
        rows += [r | {"best": r is best} for r in found]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = rows_of(arguments.folder, arguments.samples)
    print(f"{'modality':10} {'codec':24} {'ratio':>7} {'encode MB/s':>12} {'decode MB/s':>12}")
    for row in rows:
        marks = ("*" if row["registry"] else " ") + (" best" if row["best"] else "")
        print(
            f"{row['modality']:10} {row['codec']:24} {row['ratio']:7.2f} {row['encode_mb_s']:12.0f} "
            f"{row['decode_mb_s']:12.0f} {marks}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
