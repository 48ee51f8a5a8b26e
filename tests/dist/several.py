"""Several commands one after another in the same rank processes: one start-up for all of them.

python -m tests.dist.several FILE      FILE: JSON, a list of argument lists of `python -m pipeline`
"""

import json
import sys
from pathlib import Path

from pipeline.__main__ import main

if __name__ == "__main__":
    for argv in json.loads(Path(sys.argv[1]).read_text()):
        code = main(argv)
        if code:
            sys.exit(code)
    if "deepspeed" in sys.modules:
        from deepspeed.comm import comm

        # Its shared-memory op would have been compiled, which takes a compiler and a minute.
        assert comm.cdb is None or comm.cdb.shm_comm_op is None  # pyright: ignore
