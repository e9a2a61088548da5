"""The cockpit payload: what a dashboard sees of a run, validated before it is shown.

Payloads follow schema v1.0 (the seed's) or v1.1 (which can also say "unsigned" and "not measured yet"). Validation fails
closed: an invalid payload is never written, the last valid one stays, and the violation is reported. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from scaler_wizard.sentences import SENTENCE_LIMIT, shorten

VERSIONS = ("v1.0", "v1.1")
PAYLOAD_FILE = "cockpit_payload.json"
TREND_SHARE = 0.01  # a change of less than 1 % of the first perplexity is stable
UNSIGNED = {"version": "1.0.0", "authorizedBy": "", "signed": False, "signoff": ""}


@dataclass(frozen=True)
class Validation:
    """`errors` are `path: message`, sorted by path."""

    ok: bool
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What the run uses now: GiB and tokens per second; None is not measured."""

    gpu_memory_gb: float | None = None
    cpu_memory_gb: float | None = None
    tokens_per_s: float | None = None
    gpu_count: int | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Actions:
    """What a human may do now. `target_phase` and `checkpoint` say where a rollback would go."""

    approve: bool = False
    abort: bool = True
    rollback: bool = False
    target_phase: int = 0
    checkpoint: str = ""
    last_triggered: Mapping[str, str] = field(default_factory=dict)  # action -> ISO time


@dataclass(frozen=True)
class Gate:
    open: bool = False
    deadline: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class Quality:
    """Evaluation perplexity and probe accuracy (None before they are measured); `history` are the rung's perplexities."""

    perplexity: float | None = None
    accuracy: float | None = None
    history: Sequence[float] = ()
    notes: str = ""


def trend_of(history: Sequence[float]) -> str:
    """improving, stable or degrading, from the first and last finite perplexity of a series."""
    finite = [value for value in history if math.isfinite(value)]
    if len(finite) < 2:
        return "stable"
    change = finite[-1] - finite[0]
    if abs(change) <= TREND_SHARE * abs(finite[0]):
        return "stable"
    return "degrading" if change > 0 else "improving"


def build_payload(
    *,
    run_id: str,
    phase: int,
    status: str,
    sentence: str,
    quality: Quality = Quality(),
    resource: Resources = Resources(),
    contract: Mapping[str, Any] | None = None,
    actions: Actions = Actions(),
    alerts: Sequence[Mapping[str, Any]] = (),
    voice: Mapping[str, Any] | None = None,
    telemetry: Mapping[str, str] | None = None,
    rung: int | None = None,
    target_context: int | None = None,
    gate: Gate = Gate(),
    eta_s: float | None = None,
    now: datetime | None = None,
    version: str = "v1.1",
) -> dict[str, Any]:
    """A payload as plain data.

    `phase` is 0 to 4; `contract` is `Contract.payload()` or None for an unsigned run (v1.1 only); `sentence` is the canonical
    sentence. Values that are not finite are left to validation, which refuses them. In v1.0 a value that was not measured
    is 0, because that schema has no other word for it, and `notes` says so.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    new = version != "v1.0"
    missing = None if new else 0.0
    notes = quality.notes
    if not new and (quality.perplexity is None or quality.accuracy is None):
        notes = "; ".join(filter(None, (notes, "0 stands for not measured yet")))
    metrics: dict[str, Any] = {
        "perplexity": missing if quality.perplexity is None else quality.perplexity,
        "accuracy": missing if quality.accuracy is None else quality.accuracy,
        "trend": trend_of(quality.history),
    }
    if quality.history:
        metrics["window"] = len(quality.history)
    if notes:
        metrics["notes"] = notes
    payload: dict[str, Any] = {
        "schemaVersion": version,
        "runId": run_id,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "phase": f"P{phase}",
        "status": status,
        "statusMessage": sentence,
        "qualityMetrics": metrics,
        "resourceUsage": _resource_usage(resource, missing),
        "humanContract": dict(contract or UNSIGNED),
        "actions": _actions(actions),
        "alerts": [dict(alert) for alert in alerts],
    }
    if voice is not None:
        payload["voice"] = dict(voice)
    if telemetry is not None:
        payload["telemetry"] = dict(telemetry)
    if new:
        payload["canonicalSentence"] = shorten(sentence, SENTENCE_LIMIT)
        payload["rung"] = rung
        payload["gate"] = {"open": gate.open, "deadline": gate.deadline, "question": gate.question}
        payload["etaSeconds"] = eta_s
        if target_context is not None:
            payload["targetContext"] = target_context
    return payload


def _resource_usage(resource: Resources, missing: float | None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "gpuMemoryGb": missing if resource.gpu_memory_gb is None else resource.gpu_memory_gb,
        "cpuMemoryGb": missing if resource.cpu_memory_gb is None else resource.cpu_memory_gb,
        "throughputTokensPerSec": missing if resource.tokens_per_s is None else resource.tokens_per_s,
    }
    if resource.gpu_count is not None:
        usage["gpuCount"] = resource.gpu_count
    if resource.temperature_c is not None:
        usage["temperatureC"] = resource.temperature_c
    return usage


def _actions(actions: Actions) -> dict[str, Any]:
    described: dict[str, dict[str, Any]] = {
        "approve": {"enabled": actions.approve},
        "abort": {"enabled": actions.abort},
        "rollback": {
            "enabled": actions.rollback,
            "targetPhase": f"phase_{actions.target_phase}",
            "checkpoint": actions.checkpoint,
        },
    }
    for name, moment in actions.last_triggered.items():
        described[name]["lastTriggeredAt"] = moment
    return described


@cache
def schema(version: str) -> dict[str, Any]:
    """The cockpit schema of a version (`v1.0`, `v1.1`). Raises ValueError for another one."""
    if version not in VERSIONS:
        raise ValueError(f"cockpit schema {version!r} is unknown; there are {', '.join(VERSIONS)}")
    path = resources.files("scaler_wizard").joinpath(f"templates/cockpit_schema_{version}.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def validate(payload: object, version: str | None = None) -> Validation:
    """Validate against the payload's own schema version (or the one named), dates and number formats included."""
    named = payload.get("schemaVersion") if isinstance(payload, Mapping) else None
    wanted = version or (named if named in VERSIONS else "v1.1")
    errors = validate_document(payload, schema(str(wanted)))
    if version is None and named not in VERSIONS:
        errors = sorted([*errors, f"schemaVersion: found {named!r}, known are {', '.join(VERSIONS)}"])
    return Validation(not errors, tuple(errors))


def validate_document(document: object, against: Mapping[str, Any]) -> list[str]:
    """Every violation of a Draft-07 schema as `path: message`, sorted by path; numbers must be finite."""
    from jsonschema import Draft7Validator

    formats = Draft7Validator.FORMAT_CHECKER
    if "date-time" not in formats.checkers:
        return ["(payload): dates cannot be checked, because the package rfc3339-validator is not installed"]
    checker = Draft7Validator(dict(against), format_checker=formats)
    errors = [f"{_dotted(error.absolute_path)}: {error.message}" for error in checker.iter_errors(document)]
    return sorted(errors + _nonfinite(document, ""))


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(str(part) for part in path) or "(payload)"


def _nonfinite(value: object, path: str) -> list[str]:
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{path}: {value} is not a finite number"]
    if isinstance(value, Mapping):
        return [error for name, item in value.items() for error in _nonfinite(item, f"{path}.{name}" if path else str(name))]
    if isinstance(value, (list, tuple)):
        return [error for index, item in enumerate(value) for error in _nonfinite(item, f"{path}.{index}")]
    return []


class CockpitWriter:
    """Writes payloads that validate to `cockpit_payload.json`, whole; keeps the last valid one otherwise.

    `on_violation` is called with the errors of a refused payload (the pipeline logs `safety/schema_violation`). Schemas are
    loaded when the writer is built, so a broken installation shows at the start and not in the middle of a run.
    """

    def __init__(self, path: Path, on_violation: Callable[[tuple[str, ...]], None] | None = None) -> None:
        self.path = path
        self.on_violation = on_violation
        self.last: dict[str, Any] | None = None
        self.violations = 0
        for version in VERSIONS:
            schema(version)

    def write(self, payload: dict[str, Any]) -> Validation:
        """Validate and, when valid, replace the file."""
        from modelwright.files import write_json

        result = validate(payload)
        if not result.ok:
            self.violations += 1
            if self.on_violation is not None:
                self.on_violation(result.errors)
            return result
        write_json(self.path, payload)
        self.last = payload
        return result
