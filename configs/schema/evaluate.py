"""What a trained model knows, with all of its inputs and with some of them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen
from configs.schema.data import DataConfig


class ProbeConfig(Frozen):
    """Classifiers on frozen features: each of `labels` is told from all other modalities but `without`.

    A label is a class map, of which the class that is most frequent in the window is told, or a one-hot
    vector. Texts that say the label in words belong into `without`. `num_train` samples of
    `data.split` teach, `num_test` of the held-out split are judged. `neighbours` vote, weighted by
    cosine similarity; `l2` times half the squared weights is added to the mean cross-entropy of a linear
    classifier.
    """

    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    num_train: int = Field(default=512, gt=0)
    num_test: int = Field(default=256, gt=0)
    neighbours: int = Field(default=20, gt=0)
    l2: float = Field(default=1e-2, gt=0)


class EvaluateConfig(Frozen):
    """Held-out samples, with every token of a target asked for, given sets of inputs.

    Sets are all input modalities, all `without` one, and one `alone` (null: each one that the model
    takes), and `pairs`; the target itself is never given. Samples that lack the fewest modalities come first.
    `num_input_tokens` are shared out evenly over what is given (null: as many as the model was trained
    with). `seed` draws which tokens, and makes the untrained twin that probes are compared with.
    """

    kind: Literal["evaluate"]
    run: Path
    out: Path
    data: DataConfig
    num_samples: int = Field(default=128, gt=0)
    batch: int = Field(default=32, gt=0)
    without: tuple[str, ...] | None = None
    alone: tuple[str, ...] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    num_input_tokens: int | None = Field(default=None, gt=0)
    probes: ProbeConfig = ProbeConfig()
    seed: int = 0
