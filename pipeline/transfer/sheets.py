"""A few test samples in pictures to be: input, prediction, truth, of tasks whose labels are maps."""

from pathlib import Path

import numpy as np
from torch import nn

from configs.schema import InputSet
from pipeline.engine.evaluation import spread
from pipeline.transfer.feed import Feed, FrozenFeed
from pipeline.transfer.fit import Scale, outputs_of
from pipeline.transfer.target import IGNORED
from pipeline.transfer.task import Task, given_modalities

_NUM_SAMPLES = 6


def write_sheet(
    path: Path, task: Task, head: nn.Module, feed: Feed, given: InputSet, scale: Scale
) -> None:
    """`keys`, `input` [N, C, h, w] of a modality that was given and its `input_name`, `predicted`, `truth`.

    Predictions and truths are class values uint8 (the row's nodata where nothing counts), or values
    float32: [N, 1, H, W]. Where no test sample has an input, there is no sheet.
    """
    places = spread(task.with_input("test", given), _NUM_SAMPLES)
    if not len(places):
        return
    if isinstance(feed, FrozenFeed):
        feed.keep("test", given, task.with_input("test", given))
    shown = feed.show("test", places, given)
    size = (shown.labels.shape[-2], shown.labels.shape[-1])
    outputs = outputs_of(head, shown.maps, size, task, scale)
    labels = shown.labels.cpu().numpy()
    if task.target.type == "segmentation":
        values = np.array(task.target.values, dtype=np.uint8)
        nodata = np.uint8(task.target.row.nodata or 0)
        predicted = values[outputs.argmax(1)][:, None]
        truth = np.where(labels == IGNORED, nodata, values[labels.clip(min=0)])[:, None]
    else:
        predicted, truth = outputs.astype(np.float32), labels
    own, parts = _images(task, places, given)
    images, kept = list(parts.values()), list(parts)
    same = len({x.shape for x in images}) == 1
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("." + path.name)
    arrays = {
        "keys": np.array([task.key("test", int(places[n])) for n in kept]),
        "predicted": predicted[kept], "truth": truth[kept], "input_name": np.array(own),
    }  # fmt: skip
    if same:
        arrays["input"] = np.stack(images)
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    partial.rename(path)


def _images(
    task: Task, places: np.ndarray, given: InputSet
) -> tuple[str, dict[int, np.ndarray]]:  # fmt: skip
    """The first modality that any of these samples has, and by their numbers its images."""
    for name in given_modalities(given, task.modalities):
        own = task.own_name(name)
        parts = {n: task.raw("test", int(place), own) for n, place in enumerate(places)}
        if found := {n: part for n, part in parts.items() if part is not None}:
            return own, found
    raise AssertionError("samples without any input")
