from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler_wizard import contract
from scaler_wizard.contract import SIGNOFF, ContractMissingError, ContractNotAcceptedError, check_fields, find

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "contract_version": "1.0.0",
    "authorized_by": "Ada",
    "approved_at": "2026-05-01T11:00:00Z",
    "session_id": "s-1",
    "scope": {"max_context": 8192, "duration": "one run"},
    "rollback_plan": "phase_0",
    "signoff": SIGNOFF,
}


def test_a_complete_contract_is_accepted() -> None:
    accepted = check_fields(GOOD, now=NOW)
    assert accepted.max_context == 8192
    assert accepted.covers(8192)
    assert not accepted.covers(8193)
    assert accepted.payload()["signed"] is True
    assert check_fields({**GOOD, "scope": "anything goes"}, now=NOW).max_context is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *[({name: None}, name) for name in GOOD],
        ({"contract_version": "1.1.0"}, "contract_version"),
        ({"signoff": "I accept"}, "signoff"),
        ({"signoff": SIGNOFF + "."}, "signoff"),
        ({"approved_at": "yesterday"}, "approved_at"),
        ({"approved_at": "2026-05-01T12:06:00Z"}, "approved_at"),
        ({"expires_at": "2026-05-01T11:54:00Z"}, "expires_at"),
        ({"scope": {"max_context": "long"}}, "scope.max_context"),
        ({"scope": 7}, "scope"),
        ({"authorized_by": 7}, "authorized_by"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_each_failing_field_is_named_with_exit_3(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractNotAcceptedError, match=field) as caught:
        check_fields({**GOOD, **change}, now=NOW)
    assert caught.value.field == field
    assert caught.value.exit_code == 3


def test_all_failing_fields_are_named_at_once() -> None:
    with pytest.raises(ContractNotAcceptedError) as caught:
        check_fields({"signoff": "no"}, now=NOW)
    assert set(caught.value.fields) == {*GOOD}


def test_clock_skew_of_five_minutes_is_tolerated() -> None:
    check_fields({**GOOD, "approved_at": "2026-05-01T12:04:00Z", "expires_at": "2026-05-01T11:56:00Z"}, now=NOW)


def test_files_missing_unreadable_and_valid(tmp_path: Path) -> None:
    path = tmp_path / "human_contract.yaml"
    with pytest.raises(ContractMissingError, match="contract template"):
        find(path)
    path.write_text("[1, 2]")
    with pytest.raises(ContractNotAcceptedError, match="mapping"):
        find(path)
    path.write_text("a: [")
    with pytest.raises(ContractNotAcceptedError, match="not YAML"):
        find(path)
    path.write_text("# a remark\n" + yaml.safe_dump(GOOD))
    found = find(path, now=NOW)
    assert found.text.startswith("# a remark")
    assert found.sha256 == check_fields(GOOD, now=NOW).sha256


def test_a_time_that_yaml_turns_into_a_date_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "approved_at": datetime(2026, 5, 1, 11, tzinfo=UTC)}))
    assert find(path, now=NOW).payload()["approvedAt"] == "2026-05-01T11:00:00Z"


def test_the_contract_section_of_a_job_counts_like_a_file(tmp_path: Path) -> None:
    section = {"version": "1.0.0", **{name: value for name, value in GOOD.items() if name != "contract_version"}}
    assert find(tmp_path / "none.yaml", section, now=NOW).sha256 == check_fields(GOOD, now=NOW).sha256


def test_a_signature_is_kept_and_said_to_be_unverified() -> None:
    assert "does not verify" in check_fields({**GOOD, "signature": {"alg": "ed25519"}}, now=NOW).notes[0]


def test_a_token_is_bound_to_run_contract_and_process() -> None:
    accepted = contract.AcceptedContract(check_fields(GOOD, now=NOW), "0" * 64)
    token = accepted.token("run-1")
    token.require("run-1")
    assert len(token.token) == 32
    assert token.contract_sha256 == accepted.contract.sha256
    with pytest.raises(ContractNotAcceptedError, match="run-2"):
        token.require("run-2")
    forged = contract.AcceptanceToken(token.token, "run-2", token.contract_sha256, token.seal)
    with pytest.raises(ContractNotAcceptedError):
        forged.require("run-2")
    assert accepted.token("run-1").token != token.token


def test_the_template_lacks_only_what_a_person_must_write() -> None:
    text = contract.template(config_sha256="ab" * 32, base_model="m", dataset="local://d.jsonl", max_context=4096, now=NOW)
    with pytest.raises(ContractNotAcceptedError) as caught:
        check_fields(yaml.safe_load(text), now=NOW)
    assert set(caught.value.fields) == {"authorized_by", "signoff"}
    filled = contract.template(authorized_by='Ada "A"', signoff=SIGNOFF, max_context=4096, now=NOW)
    assert check_fields(yaml.safe_load(filled), now=NOW).max_context == 4096


def test_the_command_writes_shows_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(contract.template(authorized_by="Ada", signoff=SIGNOFF, config_sha256="ab" * 32))
    assert contract.main(["verify", str(path)]) == 0
    assert "Accepted: Ada" in capsys.readouterr().out
    assert contract.main(["verify", str(path), "--config-sha256", "cd" * 32]) == 3
    assert "config_sha256" in capsys.readouterr().err
    assert contract.main(["show", str(path)]) == 0
    assert "authorized_by: Ada" in capsys.readouterr().out
    assert contract.main(["verify", str(tmp_path / "none.yaml")]) == 3
    assert contract.main(["show", str(tmp_path / "none.yaml")]) == 3


def test_the_module_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "scaler_wizard.contract", "template"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["contract_version"] == "1.0.0"
