"""Every way a run can end: its reason, its exit status, and the exceptions that unwind to it. (specs/autotune.md, 11)"""

from __future__ import annotations

from typing import Literal

from modelwright.errors import ModelwrightError

ExitReason = Literal[
    "ok",
    "interrupted",
    "no_feasible",
    "budget_exhausted_no_model_selected",
    "budget_exhausted_with_partial_recommendation",
    "pre_warm_integrity_failure",
    "provider_conflict",
    "config_error",
    "internal_error",
]
EXIT_CODES: dict[ExitReason, int] = {
    "ok": 0,
    "config_error": 2,
    "no_feasible": 3,
    "provider_conflict": 4,
    "budget_exhausted_no_model_selected": 5,
    "budget_exhausted_with_partial_recommendation": 6,
    "pre_warm_integrity_failure": 7,
    "internal_error": 70,
    "interrupted": 130,
}
EXIT_APPLY_FAILED = 8
"""The run itself ended `ok`, but its recommendation could not be written."""
EXIT_STALE = 1
"""`--check-stale` found that something has changed."""


class RunEnded(Exception):
    """Unwinds a run to its end."""


class Interrupted(RunEnded):
    """A signal asked the run to stop."""


class BudgetExhausted(RunEnded):
    """`--max-duration` is over."""


class IntegrityFailure(RunEnded):
    """Weights are not what they should be; nothing may be tried after that."""


class Conflict(RunEnded):
    """Another provider, or another autotune, is in the way; `str()` tells the user what to do."""


class SetupError(ModelwrightError):
    """The run cannot begin: database, folders, settings."""

    exit_code = EXIT_CODES["config_error"]
