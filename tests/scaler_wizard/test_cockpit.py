from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaler_wizard import cockpit
from scaler_wizard.cockpit import Actions, CockpitWriter, Gate, Quality, Resources, build_payload, trend_of, validate

RUN_ID = "0b0f9f3e-1111-4000-8000-0123456789ab"
SIGNED = {
    "version": "1.0.0", "authorizedBy": "Ada", "signed": True, "signoff": "I accept responsibility for this run",
    "approvedAt": "2026-05-01T11:00:00Z", "rollbackPlan": "phase_0",
}  # fmt: skip


def payload(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "run_id": RUN_ID,
        "phase": 2,
        "status": "running",
        "sentence": "Training at 4096 tokens, phase P2.",
        "quality": Quality(5.2, 0.9, [6.0, 5.2]),
        "resource": Resources(0.0, 1.5, 900.0, 0),
        "contract": SIGNED,
        "actions": Actions(approve=True, rollback=True, target_phase=1, checkpoint="checkpoints/phase_1"),
    }
    return build_payload(**{**settings, **changes})


@pytest.mark.parametrize("version", cockpit.VERSIONS)
def test_a_full_payload_validates_in_both_versions(version: str) -> None:
    alert = {"id": "a", "modality": "visual", "severity": "warning", "message": "m", "timestamp": "2026-05-01T11:00:00Z"}
    voice = {"language": "en-US", "persona": "calm", "queueDepth": 0, "speaking": False}
    telemetry = {"metricsPath": "metrics.jsonl", "telegramPath": "telegram.json"}
    found = payload(version=version, alerts=[alert], voice=voice, telemetry=telemetry)
    assert validate(found) == cockpit.Validation(True)
    assert found["actions"]["rollback"]["targetPhase"] == "phase_1"
    assert found["qualityMetrics"]["trend"] == "improving"


def test_only_v1_1_can_say_unsigned_and_not_measured_yet() -> None:
    early = {"quality": Quality(), "resource": Resources(), "contract": None, "gate": Gate(True, "2026-05-01T11:00:00Z", "Approve?")}
    assert validate(payload(**early)).ok
    old = validate(payload(**early, version="v1.0"))
    assert not old.ok
    assert all("humanContract" in error for error in old.errors)
    assert not validate(payload(contract={**SIGNED, "signoff": ""})).ok  # signed without the phrase


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schemaVersion", "1.1"),
        ("runId", RUN_ID.upper()),
        ("timestamp", "yesterday"),
        ("phase", "P5"),
        ("status", "sleeping"),
        ("qualityMetrics.accuracy", 1.5),
        ("qualityMetrics.perplexity", -1),
        ("qualityMetrics.perplexity", float("nan")),
        ("qualityMetrics.trend", "sideways"),
        ("resourceUsage.cpuMemoryGb", -1),
        ("humanContract.signoff", "fine"),
        ("actions.rollback.enabled", "yes"),
        ("canonicalSentence", "x" * 121),
        ("surprise", 1),
    ],
)
@pytest.mark.parametrize("version", cockpit.VERSIONS)
def test_a_wrong_value_is_reported_with_its_path(version: str, path: str, value: object) -> None:
    if version == "v1.0" and path == "canonicalSentence":
        pytest.skip("a field of v1.1")
    document = payload(version=version)
    node = document
    *parents, name = path.split(".")
    for parent in parents:
        node = node[parent]
    node[name] = value
    result = validate(document)
    assert not result.ok
    expected = "(payload)" if path == "surprise" else path
    assert any(error.startswith(f"{expected}:") for error in result.errors)


def test_errors_are_sorted_by_path() -> None:
    document = payload()
    document["status"] = document["phase"] = "x"
    document["alerts"] = [{"id": 1}]
    errors = validate(document).errors
    assert list(errors) == sorted(errors)
    assert any(error.startswith("alerts.0") for error in errors)


def test_the_last_valid_payload_stays_and_the_violation_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    writer = CockpitWriter(tmp_path / "cockpit_payload.json", seen.append)
    good = payload()
    assert writer.write(good).ok
    before = writer.path.read_bytes()
    assert not writer.write(payload(quality=Quality(float("nan"), 0.9))).ok
    assert not writer.write({"junk": True}).ok
    assert writer.path.read_bytes() == before
    assert json.loads(before) == good == writer.last
    assert writer.violations == len(seen) == 2


def test_v1_0_top_level_is_the_seeds() -> None:
    document = cockpit.schema("v1.0")
    assert document["additionalProperties"] is False
    assert document["required"] == [
        "schemaVersion", "runId", "timestamp", "phase", "status", "qualityMetrics", "resourceUsage", "humanContract", "actions", "alerts",
    ]  # fmt: skip
    assert set(document["properties"]) - set(document["required"]) == {"statusMessage", "voice", "telemetry"}


@pytest.mark.parametrize(
    ("history", "trend"),
    [([], "stable"), ([5.0], "stable"), ([5.0, 5.04], "stable"), ([5.0, 5.2], "degrading"), ([5.0, float("nan"), 4.8], "improving")],
)
def test_trend(history: list[float], trend: str) -> None:
    assert trend_of(history) == trend
