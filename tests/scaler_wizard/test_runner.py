from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers.small_job import small_job
from modelwright.errors import ConfigError, RunLockedError
from modelwright.rundir import RunDir
from scaler_wizard.cli import main
from scaler_wizard.contract import ContractNotAcceptedError
from scaler_wizard.pipeline import Pipeline
from scaler_wizard.resolve import resolve_document
from scaler_wizard.runner import accept_contract, commands, open_run, run_job
from scaler_wizard.session import Session


def test_resume_command_names_directory_and_resume() -> None:
    command, again = commands(Path("/runs/x"), ["--base-model", "m", "--output-dir", "here"])
    assert command == [sys.executable, "-m", "scaler_wizard.cli", "--base-model", "m", "--output-dir", "here"]
    assert again == [*command, "--resume"]
    _, again = commands(Path("/runs/x"), ["--base-model", "m", "--resume"])
    assert again[3:] == ["--base-model", "m", "--output-dir", "/runs/x", "--resume"]
    _, again = commands(Path("/runs/x"), None)
    assert again[3:] == ["--config", "/runs/x/job.json", "--output-dir", "/runs/x", "--resume"]


def test_a_refused_contract_writes_nothing(tmp_path: Path) -> None:
    job = small_job(tmp_path, contract={"signoff": "yes"})
    with pytest.raises(ContractNotAcceptedError, match="signoff"):
        run_job(job)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("door", ["run_job", "command"])
def test_the_contract_is_checked_before_the_hardware(tmp_path: Path, door: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A job whose contract fails and whose strategy no machine without a GPU and bitsandbytes can run: the contract is what is refused."""
    job = small_job(tmp_path, contract={"signoff": "yes"}, scaling={"strategy": "qlora"})
    if door == "run_job":
        with pytest.raises(ContractNotAcceptedError, match="signoff"):
            run_job(job)
    else:
        (tmp_path / "job.json").write_text(json.dumps(job))
        assert main(["--config", str(tmp_path / "job.json")]) == 3
        assert "signoff" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="qlora"):  # with a contract in order the machine is what refuses
        run_job(small_job(tmp_path, scaling={"strategy": "qlora"}))


def test_a_pipeline_needs_the_token_of_its_own_run(tmp_path: Path) -> None:
    job = resolve_document(small_job(tmp_path))
    accepted = accept_contract(job)
    with open_run(job, None, {}) as run:
        session = Session(job, run, accepted.contract, quiet=True)
        with pytest.raises(ContractNotAcceptedError, match="not issued for the run"):
            Pipeline(session, accepted.contract, accepted.token("00000000-0000-0000-0000-000000000000"))
        assert Pipeline(session, accepted.contract, accepted.token(run.run_id)).breaker.config.min_accuracy == 0.0
        session.close()


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    run = RunDir.create(tmp_path / "run", kind="scaler_wizard", command=["the", "first"])
    try:
        with pytest.raises(RunLockedError, match="the first"):
            run_job(job)
    finally:
        run.close()


def test_a_changed_job_is_not_resumed(tmp_path: Path) -> None:
    job = resolve_document(small_job(tmp_path))
    with open_run(job, None, small_job(tmp_path)) as run:
        Session(job, run, accept_contract(job).contract, quiet=True).close()
        run.finish("paused", 9, "request")
    with pytest.raises(ContractNotAcceptedError, match="config_sha256"):
        run_job(small_job(tmp_path, training={"steps_per_rung": 5}))
