"""Run a job document in a process whose data memory is limited from its first training step on.

python limited_child.py JOB.json MIB     MIB of private writable memory beyond what the process has by then
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from scaler_wizard.rung_training import RungTraining
from scaler_wizard.runner import run_job


def data_bytes() -> int:
    """Private writable memory of this process, which RLIMIT_DATA counts (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def main(path: str, mebibytes: int) -> int:
    torch.set_num_threads(1)
    train = RungTraining.train

    def limited(self: RungTraining, rung: Any) -> None:
        if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
            limit = data_bytes() + mebibytes * 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        train(self, rung)

    RungTraining.train = limited  # type: ignore[method-assign]
    result = run_job(json.loads(Path(path).read_text(encoding="utf-8")))
    print(result.message)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
