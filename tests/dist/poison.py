"""Train with batches that hold NaN wherever a sample at one of some positions of the stream is in them.

POISON=30,31 python -m tests.dist.poison ARGUMENTS OF pipeline
"""

import os
import sys

from pipeline.__main__ import main
from pipeline.stage2.objective import MaskedObjective

POSITIONS = {int(p) for p in os.environ["POISON"].split(",") if p}
_sample, _collate = MaskedObjective.sample, MaskedObjective.collate
poisoned = []


def sample(self, index, rng, cursor):
    """A sample's generator is made from its position, which is how it is known here."""
    position = int(rng.bit_generator.state["state"]["key"][1])
    found = _sample(self, index, rng, cursor)
    if position in POSITIONS:
        poisoned.append(found)
    return found


def collate(self, samples):
    batch = _collate(self, samples)
    if any(s is p for s in samples for p in poisoned):
        for name, values in batch.items():
            if name.startswith("goal_weight/"):
                values.fill_(float("nan"))
    return batch


if __name__ == "__main__":
    setattr(MaskedObjective, "sample", sample)  # noqa: B010
    setattr(MaskedObjective, "collate", collate)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
