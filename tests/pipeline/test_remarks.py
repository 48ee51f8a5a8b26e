"""What is said of codes beside curves: their histogram, and that they have collapsed."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.load import load_config
from configs.schema import Stage1Config
from pipeline.engine.metrics import MetricsLog
from pipeline.stage1.objective import TokenizerObjective


def remarks(counts: list[float]):
    config = load_config("configs/stage1/small.yaml", ["tokenizer.quantizer=vq"])
    assert isinstance(config, Stage1Config)
    objective = TokenizerObjective.__new__(TokenizerObjective)
    objective.config = config
    return objective.remarks({"codes": torch.tensor(counts, dtype=torch.float64)})


def test_a_collapse_is_told_with_what_to_try():
    one_code = remarks([1e6] + [0.0] * 999)
    assert len(one_code.warnings) == 1
    assert "collapsed" in one_code.warnings[0]
    assert "tokenizer.vq.dead_share" in one_code.warnings[0]
    assert remarks([1e6] * 100 + [0.0] * 900).warnings == ()


def test_few_tokens_do_not_look_like_a_collapse():
    assert remarks([1.0] * 8 + [0.0] * 15_000).warnings == ()


def test_the_histogram_of_codes_is_written_whole(tmp_path: Path):
    counts = torch.arange(1000).double()
    log = MetricsLog(tmp_path, "codes", 10, 0)
    log.histograms(3, {"codes": counts})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (found,) = events.Histograms("train/codes")
    value = found.histogram_value
    assert found.step == 3
    assert sum(value.bucket) == counts.sum()
    assert value.bucket_limit[-1] == 1000
    begin = 0
    for limit, total in zip(value.bucket_limit, value.bucket, strict=True):
        assert total == counts[begin : int(limit)].sum()
        begin = int(limit)
