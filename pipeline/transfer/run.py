"""`python -m pipeline transfer`: a backbone on tasks.

OUT/config.yaml      what was asked
OUT/results.jsonl    a line per fit and set of test inputs; see `pipeline.transfer.record`
OUT/sheets/*.npz     inputs, predictions and truths of a few test samples, of each task's first seed
OUT/models/*         trained models, where asked for
OUT/scores.json      the means over seeds, and of which cells, weights and data; written last, it is the end
"""

import json

from configs import to_yaml
from configs.schema import TransferConfig
from pipeline.engine.distributed import pick_device
from pipeline.engine.lifecycle import OK, code_version, run_lock, write_atomic
from pipeline.engine.metrics import say
from pipeline.transfer.bench import Bench
from pipeline.transfer.done import SCORES
from pipeline.transfer.record import read_results
from pipeline.transfer.summary import print_summary, summary
from pipeline.transfer.task import LabelledSamples
from pipeline.transfer.weights import backbone_digest


def transfer(config: TransferConfig) -> int:
    """Fit, test, write. Raises ConfigError, RunError or ShardError."""
    device, digest = pick_device(config.device), backbone_digest(config.backbone)
    sources = {name: LabelledSamples(name, task) for name, task in config.tasks.items()}
    with run_lock(config.out):
        # What an earlier configuration or other weights left is no end of this one.
        (config.out / SCORES).unlink(missing_ok=True)
        write_atomic(config.out / "config.yaml", to_yaml(config))
        cells = [c for s in sources.values() for c in Bench(config, s, device, digest).run()]
        lines = [x for x in read_results(config.out) if x["cell"] in cells]
        record = {
            "backbone": config.backbone,
            "backbone_digest": digest,
            "init": config.init,
            "merge": config.merge,
            "code": code_version(),
            "tasks": {
                n: {
                    "type": s.target.type,
                    "classes": s.target.names,
                    "data_digest": s.fingerprint,
                    "source_digest": s.source_digest,
                }
                for n, s in sources.items()
            },
            "cells": cells,
            "scores": summary(lines),
        }
        write_atomic(config.out / SCORES, json.dumps(record, indent=1))
    print_summary(lines)
    say(f"transfer: {config.out / SCORES}")
    return OK
