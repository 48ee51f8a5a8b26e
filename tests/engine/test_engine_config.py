"""What an engine's configuration refuses, and that DeepSpeed knows every key we give it."""

import itertools
from typing import Any

import pytest
from deepspeed.runtime.config import DeepSpeedConfig
from pydantic import ValidationError

from configs.schema import EngineConfig
from pipeline.engine.deepspeed import MAX_BUCKET, zero_config
from tests.engine.tiny import make_config


class Watched(dict):
    """A dictionary that knows which of its keys were looked for."""

    def __init__(self, values: dict[str, Any]):
        super().__init__({k: Watched(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (this is what it would call)

    def __deepcopy__(self, _: Any) -> "Watched":
        return self


def unread(given: dict[str, Any]) -> set[str]:
    """Keys that DeepSpeed never looks for; in its sections of pydantic it raises for them itself."""
    config = Watched(given)
    DeepSpeedConfig(config)
    found = config.keys() - config.asked
    for section in ("data_types", "checkpoint"):
        found |= {f"{section}.{key}" for key in dict.keys(config[section]) - config[section].asked}
    return set(found)


def fitting(**changes: Any) -> EngineConfig | None:
    try:
        return make_config(kind="deepspeed", **changes)
    except ValidationError:
        return None


def all_configs() -> list[EngineConfig]:
    places = ("none", "cpu")
    wishes = itertools.product(
        range(4), ("fp32", "bf16"), ("adamw", "muon", "apex_adam"), places, places
    )
    found = [
        fitting(
            zero_stage=stage,
            precision=precision,
            optimizer={"name": optimizer},
            offload={"optimizer": state, "parameters": weights},
        )
        for stage, precision, optimizer, state, weights in wishes
    ]
    return [config for config in found if config is not None]


@pytest.mark.usefixtures("world")
def test_deepspeed_looks_for_every_key_of_ours():
    configs = all_configs()
    assert {c.zero_stage for c in configs} == {0, 1, 2, 3}
    assert {c.offload.parameters for c in configs} == {"none", "cpu"}
    for config in configs:
        assert not unread(zero_config(config, 2, 1000)), config


@pytest.mark.usefixtures("world")
def test_a_key_that_deepspeed_does_not_know_is_found():
    given = zero_config(make_config(kind="deepspeed"), 1, 1000)
    assert unread(given | {"gradient_cliping": 1.0}) == {"gradient_cliping"}
    data_types = {"data_types": {"grad_accum_dtyp": "fp32"}}
    assert unread(given | data_types) == {"data_types.grad_accum_dtyp"}
    section = given["zero_optimization"] | {"stag": 2}
    with pytest.raises(ValidationError, match="stag"):
        unread(given | {"zero_optimization": section})


def test_deepspeed_is_told_stage_clipping_and_places():
    config = make_config(
        kind="deepspeed",
        zero_stage=3,
        precision="bf16",
        optimizer={"clip_grad_norm": 0.5},
        offload={"optimizer": "cpu", "parameters": "cpu"},
    )
    found = zero_config(config, 5, 1000)
    zero = found["zero_optimization"]
    assert (zero["stage"], found["gradient_clipping"]) == (3, 0.5)
    assert (found["gradient_accumulation_steps"], found["bf16"]["enabled"]) == (5, True)
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"


def test_deepspeeds_own_clipping_stays_off_where_none_is_asked_for():
    config = make_config(kind="deepspeed", zero_stage=2, optimizer={"clip_grad_norm": 0})
    assert zero_config(config, 1, 1000)["gradient_clipping"] == 0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_steps": None}, "give one of num_steps, num_samples and num_tokens"),
    ({"num_samples": 5}, "give one of num_steps, num_samples and num_tokens"),
    ({"schedule": {"warmup_steps": 1, "warmup_samples": 4}}, "give one of warmup_steps"),
    ({"kind": "plain", "offload": {"optimizer": "cpu"}}, "offload is ZeRO's"),
    ({"optimizer": {"name": "muon", "layer_decay": 0.5}}, "layer_decay is for AdamW"),
    ({"zero_stage": 0, "precision": "bf16"}, "write zero_stage: 1, or kind: plain"),
    ({"zero_stage": 0, "offload": {"optimizer": "cpu"}}, "needs zero_stage 1, 2 or 3"),
    ({"offload": {"parameters": "cpu"}}, "needs zero_stage: 3"),
    ({"offload": {"optimizer": "nvme"}}, "needs nvme_path, a folder on a local disk"),
    ({"zero_stage": 3, "compile": True}, "compile does not go with ZeRO-3"),
    ({"zero_stage": 0, "optimizer": {"name": "muon"}}, "muon needs zero_stage 1, 2 or 3"),
    ({"zero_stage": 1, "precision": "bf16", "optimizer": {"name": "muon"}}, "muon in bf16 needs"),
    ({"offload": {"optimizer": "cpu"}, "optimizer": {"name": "muon"}}, "momentum of a dropped"),
    ({"zero_stage": 4}, "zero_stage"),
    ({"ema_decay": 1.0}, "less than 1"),
    ({"global_batch": 0}, "greater than 0"),
    ({"clip": 1.0}, "Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_does_not_go_together_is_refused_with_what_to_write(changes: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        make_config(**{"kind": "deepspeed", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "plain", "zero_stage": 0, "precision": "bf16"},
        {"kind": "plain", "optimizer": {"name": "muon"}},
        {"kind": "plain", "compile": True},
        {"zero_stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
        {"zero_stage": 2, "precision": "bf16", "optimizer": {"name": "muon"}},
    ],
)
def test_what_goes_together_is_accepted(changes: dict):
    make_config(**{"kind": "deepspeed", **changes})


def test_buckets_are_no_larger_than_the_model():
    """DeepSpeed allocates them in full: by default two times 2 GB beside a model of any size."""
    small = zero_config(make_config(kind="deepspeed"), 1, 1000)["zero_optimization"]
    assert small["reduce_bucket_size"] == small["allgather_bucket_size"] == 1024
    large = zero_config(make_config(kind="deepspeed"), 1, 10**10)["zero_optimization"]
    assert large["reduce_bucket_size"] == MAX_BUCKET
