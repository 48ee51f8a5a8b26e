"""Frozen tokenizers over a whole shard set: tokens go beside the pixels, same shard and slot.

    DATASET/extra/tok_<MODALITY>/<split>/shard-NNNNNN.tar     member: codes [K views, N] per sample

A modality of several dates has tokens of each (tok_S2L2A, tok_S2L2A_t1, ...), by one tokenizer and in the
same views.

Ranks take shards in turn; a shard is committed whole, so stopping and starting again, with any number
of ranks, repeats no finished shard and changes no byte.

A damaged part has no tokens. Once it is whole again, the next run makes its shard anew; a shard whose
damage is still there is left as it is.

Jobs that write tokens of different modalities may run at once. A job holds extra/tok_<MODALITY>/.lock of
each that it writes, and does not start where another holds one of them.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from configs import ConfigError
from configs.registry import in_registry_order
from configs.schema import Modality, TokenizeConfig
from configs.schema.modality import undated
from pipeline.data.tokens import extra_name
from pipeline.data.views import Views
from pipeline.engine import distributed, lifecycle
from pipeline.engine.errors import RunError
from pipeline.engine.metrics import clock, say
from pipeline.stage1.artifact import ImageTokenizer, fingerprint
from pipeline.stage1.place_time import COORDINATE_SCHEMES, DATE_SIZES, VERSION, date_tokens
from pipeline.stage1.text import TextTokenizer
from shards import DamagedError, Dataset, ShardError, open_dataset
from shards.extra import ExtraWriter, hold_extra
from shards.record import Fault
from shards.sample import Part

REPORT_EVERY_S = 5.0


class Encode(NamedTuple):
    """From parts to codes [K views, N]: each part is prepared alone, then a batch of them is encoded.

    `prepare` raises ValueError for a part that has no codes.
    """

    prepare: Callable[[Any], np.ndarray]
    codes: Callable[[list[np.ndarray]], list[np.ndarray]] = list


def tokenize(config: TokenizeConfig) -> int:
    """Tokenize everything the configuration names. Raises ConfigError, RunError or ShardError."""
    world = distributed.start(config.device)
    dataset = open_dataset(config.data.shards)
    names = in_registry_order({*config.tokenizers, *config.modalities})
    for name in names:
        if (base := undated(name)[0]) != name:
            raise ConfigError(
                f"{name} is a date of {base}; name {base}: all its dates are tokenized"
            )
        if name not in dataset.modalities:
            raise ConfigError(
                f"{dataset.path} has no {name}; it has {', '.join(dataset.modalities)}"
            )
    plans = {}
    for name in names:
        info, encode = _tokenizer(name, dataset, config, world.device)
        dates = (part for part in dataset.modalities if undated(part)[0] == name)
        plans |= {part: (info | {"modality": part}, encode) for part in dates}
    windows = {info["window_m"] for info, _ in plans.values()} - {None}
    if len(windows) > 1:
        raise ConfigError(
            f"tokenizers work on windows of different size on the ground: {sorted(windows)} m; "
            "train them with matching tokenizer.crop_px"
        )
    damaged = {}
    with _alone(dataset, list(plans), world):
        for name, (info, encode) in plans.items():
            damaged[name] = _add(name, info, encode, dataset, config.batch, world)
    if world.is_main and any(damaged.values()):
        which = ", ".join(f"{count} of {name}" for name, count in damaged.items() if count)
        say(
            f"tokenize damaged parts without tokens: {which}; run `python -m shards repair "
            f"{dataset.path}`, then the same command again: it makes their shards anew"
        )
    return lifecycle.OK


@contextlib.contextmanager
def _alone(dataset: Dataset, names: Sequence[str], world: distributed.World) -> Iterator[None]:
    """Hold the folders of these modalities' tokens against other jobs, from rank 0 for all ranks.

    The kernel lets go however rank 0 ends. Raises RunError on every rank when one of them is taken, and
    ShardError when the disk refuses.
    """
    with contextlib.ExitStack() as held:
        refusal: RunError | ShardError | None = None
        if world.is_main:
            try:
                for name in names:
                    if not held.enter_context(hold_extra(dataset, extra_name(name))):
                        raise RunError(
                            f"another tokenize is writing {name} of {dataset.path}; wait for it or stop it"
                        )
            except (RunError, ShardError) as error:
                refusal = error
        # None of the others may touch a folder that another job writes to.
        refusal = world.broadcast(refusal)
        if refusal is not None:
            raise refusal
        yield


def _add(
    name: str,
    info: dict[str, Any],
    encode: Encode,
    dataset: Dataset,
    batch: int,
    world: distributed.World,
) -> int:
    """Write and commit one token modality; on rank 0, how many damaged parts have no tokens."""
    # One rank begins the folder before any other looks into it.
    writer = world.in_turn(lambda: ExtraWriter(dataset, extra_name(name), info))
    if world.is_main and (healed := _healed(name, dataset, writer)):
        say(f"tokenize {name:<11} shards anew, as damaged parts are whole again: {len(healed)}")
        writer.discard(healed)
    _run(name, dataset, encode, writer, batch, world)
    world.barrier()
    damaged = 0
    if world.is_main:
        damaged = int(dataset.present(name).sum()) - writer.commit()["num_present"]
    world.barrier()
    return damaged


def _healed(name: str, dataset: Dataset, writer: ExtraWriter) -> list[str]:
    """Committed shards that lack tokens of a part which reads whole now."""

    def is_whole(i: int) -> bool:
        try:
            return name in dataset.read(i, [name])
        except DamagedError:
            return False

    # From what is there, not from the faults told beside it: older shards were written without.
    lacking = writer.lacking(dataset.present(name))
    return [shard for shard, samples in lacking.items() if any(map(is_whole, samples))]


def _run(
    name: str,
    dataset: Dataset,
    encode: Encode,
    writer: ExtraWriter,
    batch: int,
    world: distributed.World,
) -> None:
    """This rank's share of the shards that are not done yet."""
    done = set(world.broadcast(sorted(writer.done_shards()) if world.is_main else None))
    todo = [shard for shard in dataset.shards if "/".join(shard) not in done]
    present = dataset.present(name)
    mine = [(shard, dataset.shard_samples(*shard)) for shard in todo[world.rank :: world.size]]
    total = sum(len(samples) for _, samples in mine)
    finished, started, told = 0, time.perf_counter(), time.perf_counter()
    for shard, samples in mine:
        parts: list[np.ndarray | None] = [None] * len(samples)
        slots = [s for s, i in enumerate(samples) if present[i]]
        faults: list[Fault] = []
        for start in range(0, len(slots), batch):
            values = _intact(dataset, name, samples, slots[start : start + batch], faults)
            if values:
                ready = [
                    _prepared(dataset, name, samples[slot], encode, value)
                    for slot, value in values.items()
                ]
                for slot, codes in zip(values, encode.codes(ready), strict=True):
                    parts[slot] = codes
        writer.write_shard("/".join(shard), parts, faults)
        finished += len(parts)
        if world.is_main and time.perf_counter() - told > REPORT_EVERY_S:
            told = time.perf_counter()
            rate = finished / (told - started)
            eta = clock((total - finished) / rate)
            say(
                f"tokenize {name:<11} {finished}/{total} samples  {rate:7.1f} samples/s per rank  eta {eta}"
            )
    if world.is_main:
        rate = finished / max(time.perf_counter() - started, 1e-9)
        what = f"{finished} samples, {rate:.0f} samples/s per rank" if mine else "already there"
        say(f"tokenize {name:<11} done: {what}")


def _intact(
    dataset: Dataset, name: str, samples: range, slots: Sequence[int], faults: list[Fault]
) -> dict[int, Part]:
    """The parts of a shard's slots; a damaged one is told, left out, and added to `faults`."""
    found = {}
    for slot in slots:
        try:
            found[slot] = dataset.read(samples[slot], [name])[name]
        except DamagedError as error:
            say(f"tokenize {name:<11} left out: {error}")
            faults.append(Fault(dataset.keys[samples[slot]], name, str(error)))
    return found


def _prepared(dataset: Dataset, name: str, i: int, encode: Encode, part: Part) -> np.ndarray:
    """A part ready to be encoded. Raises RunError, naming the sample, for one that has no codes."""
    try:
        return encode.prepare(part)
    except ValueError as error:
        key, tar = dataset.locate(i)
        if dataset.modalities[name].kind in ("coordinates", "date"):
            todo = (
                "correct it in the source and build the data set again, or leave "
                f"{undated(name)[0]} out of modalities"
            )
        else:
            todo = (
                "train the tokenizer with a smaller tokenizer.crop_px, or build the data set without "
                "such samples"
            )
        raise RunError(
            f"{name} of sample {key} in {tar} cannot be tokenized: {error}; {todo}; finished shards "
            "are kept"
        ) from error


def _tokenizer(
    name: str, dataset: Dataset, config: TokenizeConfig, device: torch.device
) -> tuple[dict[str, Any], Encode]:
    """What the token modality's manifest says, and the way from parts to codes."""
    row = dataset.modalities[name]
    info = untrained_info(name, row, config.coordinates)
    tokens_of: Callable[[Any], np.ndarray] | None = None
    if row.kind == "coordinates":
        tokens_of = COORDINATE_SCHEMES[config.coordinates].encode
    elif row.kind == "date":
        tokens_of = date_tokens
    if tokens_of is not None:
        info["artifact"] = None
        return info, Encode(lambda value: _u16(tokens_of(value))[None])
    if name not in config.tokenizers:
        raise ConfigError(
            f"{name} needs a trained tokenizer; write tokenizers.{name}=STAGE1_RUN_FOLDER"
        )
    artifact = config.tokenizers[name] / "artifact"
    # As seen from the shard set, so that an experiment's folder can be moved as a whole.
    info |= {"artifact": os.path.relpath(artifact, config.data.shards)}
    if row.kind == "text":
        text = TextTokenizer.from_pretrained(artifact)
        info |= {
            "tokenizer": fingerprint(artifact),
            "num_tokens": text.max_tokens,
            "vocab_size": text.vocab_size,
        }
        return info, Encode(lambda value: _u16(text.encode(value))[None])
    image = ImageTokenizer.from_pretrained(artifact, device)
    views = Views(config.crops, config.symmetries)
    info |= {
        "tokenizer": fingerprint(artifact),
        "views": views.to_dict(),
        "grid": list(image.model.grid),
        "window_m": image.window_m,
        "num_tokens": image.model.grid[0] * image.model.grid[1],
        "vocab_size": image.vocab_size,
    }

    def codes_of(windows: list[np.ndarray]) -> list[np.ndarray]:
        codes = _smallest(image.tokenize(np.concatenate(windows)), image.vocab_size)
        return list(codes.reshape(len(windows), len(views), -1))

    return info, Encode(lambda value: views.all(value, row, image.window_m), codes_of)


def untrained_info(name: str, row: Modality, coordinates: str = "cells") -> dict[str, Any]:
    """What the manifest of a token modality says before any trained tokenizer is known."""
    info = {
        "modality": name,
        "kind": row.kind,
        "views": Views().to_dict(),
        "grid": None,
        "window_m": None,
    }
    if row.kind == "coordinates":
        scheme = COORDINATE_SCHEMES[coordinates]
        info |= _counted(scheme.version, scheme.sizes)
    elif row.kind == "date":
        info |= _counted(VERSION, DATE_SIZES)
    return info


def _counted(version: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Of tokens that count something, such as months: runs of codes whose neighbours mean nearly the same."""
    return {
        "tokenizer": version,
        "num_tokens": len(sizes),
        "vocab_size": sum(sizes),
        "runs": list(sizes),
    }


def _smallest(codes: np.ndarray, vocab_size: int) -> np.ndarray:
    return codes.astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _u16(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.uint16)
