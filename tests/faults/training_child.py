"""A warm process that forks one training run for every job file named on its standard input.

It imports once, so that a kill costs no import; the runs themselves are ordinary processes that can be killed for real.
Output, one line each: `ready`, then `pid <n>` and `ended <wait status>` for every run.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from scaler_wizard import pipeline, runner

    assert pipeline is not None
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = runner.run_job(job).exit_code
            except BaseException:  # noqa: BLE001 - the fork must end here, whatever it was
                traceback.print_exc()
            finally:
                os._exit(code)
        print("pid", pid, flush=True)
        print("ended", os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
