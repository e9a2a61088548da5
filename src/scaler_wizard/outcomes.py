"""How a run ends: the result that every caller gets, and one exception per way of not finishing.

Exit codes are those of the command (specs/scaler.md section 1.5): 0 done, 4 hardware, 5 model or data, 6 circuit
breaker, 7 human, 8 checkpoint, 9 paused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelwright.errors import ModelwrightError

CPU_ALLOCATION_FAILED = "can't allocate memory"  # PyTorch's CPU allocator has no exception class of its own


class HardwareShortfall(ModelwrightError):
    """The machine cannot hold the plan."""

    exit_code = 4


class BreakerStop(ModelwrightError):
    """The circuit breaker ended the run; `telegram` is its verdict."""

    exit_code = 6

    def __init__(self, message: str, telegram: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.telegram = dict(telegram)


class HumanStop(ModelwrightError):
    """A person (or a signal in a person's name) ended the run. `kind` is stop or abort."""

    exit_code = 7

    def __init__(self, message: str, kind: str = "stop", actor: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.actor = actor


class CheckpointFailure(ModelwrightError):
    """State that the run depends on is missing or damaged."""

    exit_code = 8


@dataclass(frozen=True)
class RunResult:
    """What became of a job.

    `status` is completed, stopped, aborted, paused or failed; `achieved_context` is in tokens (None before any rung
    passed);
    `scores` maps probe names to {length: score}; `artifacts` are paths relative to the run directory.
    """

    status: str
    exit_code: int
    run_dir: Path
    run_id: str
    message: str
    achieved_context: int | None = None
    target_context: int | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "run_dir": str(self.run_dir), "artifacts": list(self.artifacts)}


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator, PyTorch's CPU allocator or Python itself found no memory."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and CPU_ALLOCATION_FAILED in str(error))
