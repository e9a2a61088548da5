"""What a run was asked to do: every value checked, every default in its place. (specs/autotune.md, 4)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macprovider.autotune.measuring.choose import Objective

DEFAULTS: dict[str, Any] = {
    "target_context": 2000,
    "kv_bits_axis": "unset,4,8",
    "max_batch_axis": "1,2",
    "max_context_axis": "",
    "stage1_replicates": 1,
    "stage2_replicates": 3,
    "gate_ttft_ms": 60000,
    "tps_tie_epsilon": 0.02,
    "max_duration": 7200,
    "port": 18080,
    "retain_runs": 50,
    "ready_timeout": 600,
    "max_tokens": 48,
    "objective": "tps",
    "engine": "auto",
    "min_agreement": 0.9,
    "max_kl": 0.02,
}
LIVE_GRACE_S = 30
"""Seconds a live serve gets to end when `--drain-grace` does not say."""
CANDIDATE_GRACE_S = 10
"""Seconds a candidate gets."""


@dataclass(frozen=True)
class Options:
    """One invocation. Contexts in tokens, durations in seconds unless the name says ms. candidate_models: the final list in its
    order. engine: never `auto`; engine_reason: why it is what `auto` stands for, "" when it was named. drain_grace: None leaves the two
    defaults. min_agreement, max_kl: limits of the quality gate, a share and nats per token. repair: the file of an operator that
    quantised caches are measured with as well, None for none. html: file for the report's page, None for no page.
    """

    target_context: int
    candidate_models: tuple[str, ...]
    kv_bits_axis: tuple[int | None, ...]
    max_batch_axis: tuple[int, ...]
    max_context_axis: tuple[int, ...]
    stage1_replicates: int
    stage2_replicates: int
    gate_ttft_ms: int
    tps_tie_epsilon: float
    max_duration: int
    drain_grace: int | None
    port: int
    db_path: Path
    config: Path
    retain_runs: int
    ready_timeout: float
    request_timeout: float
    max_tokens: int
    engine: str
    objective: Objective
    min_agreement: float
    max_kl: float
    json: bool = False
    apply: bool = False
    drain: bool = False
    restart_foreground: bool = False
    dry_run: bool = False
    report_only: bool = False
    verbose: bool = False
    compare: bool = False
    prune: bool = False
    resume: bool = False
    show_pareto: bool = False
    check_stale: bool = False
    quality_gate: bool = False
    repair: Path | None = None
    html: Path | None = None
    warnings: tuple[str, ...] = ()
    engine_reason: str = ""

    @property
    def live_grace_s(self) -> float:
        return LIVE_GRACE_S if self.drain_grace is None else self.drain_grace

    @property
    def candidate_grace_s(self) -> float:
        return CANDIDATE_GRACE_S if self.drain_grace is None else self.drain_grace


@dataclass(frozen=True)
class Inputs:
    """What the record of a run keeps of its settings: all of them, or, after wrong arguments, those that could be read (0 and []
    stand for the others).
    """

    target_context: int = 0
    candidate_models: tuple[str, ...] = ()
    stage1_replicates: int = 0
    stage2_replicates: int = 0
    gate_ttft_ms: int = 0
    tps_tie_epsilon: float = 0.0
    engine: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Inputs:
        """From the values that were understood; others are left at nothing."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if values.get(name) is not None})
