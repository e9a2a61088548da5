"""What every phase of a run does around its work: records, heartbeats, pause, failure, archive, exit status."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cachemedicpp.config.sections import RunConfig
from cachemedicpp.config.settings import config_hash, load_run_config
from cachemedicpp.phases.phase_run import PhaseRun, heartbeat_numbers
from cachemedicpp.phases.record_models import EnvironmentFile, EvalHeartbeat, GitState, MedicRunRecord, StabilityHeartbeat, UnitPauseAck
from cachemedicpp.phases.running import phase_run, run_phase
from cachemedicpp.phases.units import Asked, ProgressFile, UnitSession, run_units
from helpers.medic_run import TINY, contents, heartbeat, heartbeats
from modelwright.control import answers, ask
from modelwright.errors import ConfigError, Fault, LoadError
from modelwright.files import read_json, write_json
from modelwright.heartbeat import read_heartbeat
from modelwright.record import read_record

PROGRESS = "metrics/eval_progress.json"


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_run_config(TINY)


def run_eval(config: RunConfig, run: Path, work: Any, **options: Any) -> int:
    """The phase `eval` with a work of the test's own."""
    options = {"owned": (PROGRESS, "logs/eval*"), **options}
    return run_phase("eval", work, config=config, config_path=TINY, run_dir=run, command=["python", "-m", "cachemedicpp.eval"], **options)


def units(phase: PhaseRun) -> str:
    """Three units, one after the other, with progress on disk."""
    path = phase.folder / PROGRESS
    done = read_json(path)["done"] if path.exists() else 0
    phase.begin(total=3, step=done, resumed_from=path if done else None, elapsed_before=10.0 * done)
    if done == 3:
        return "already_completed"

    def save(reason: str) -> Path:
        write_json(path, {"done": phase.step, "reason": reason})
        return path

    for unit in range(done + 1, 4):
        phase.pause_if_asked(save)
        phase.beat(unit, "progress", current_unit={"unit_key": f"unit {unit}"})
    save("completed")
    phase.beat(3, "finalizing")
    return "completed"


def test_heartbeat_at_half_time() -> None:
    """Acceptance 31."""
    numbers = heartbeat_numbers(50, 100, 25.0)
    assert (numbers["progress"], numbers["steps_remaining"], numbers["eta_sec"], numbers["steps_per_sec"]) == (0.5, 50, 25.0, 2.0)
    start = heartbeat_numbers(0, 100, 3.0)
    assert start["eta_sec"] is None and start["progress"] == 0.0


def test_a_phase_writes_its_layout_records_and_heartbeats(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    assert run_eval(config, run, units) == 0
    for name in ("checkpoints", "control", "logs", "metrics", "paper/figures", "paper/tables"):
        assert (run / name).is_dir()
    record = MedicRunRecord.model_validate(read_json(run / "run_record.json"))
    assert (record.run_id, record.config_hash) == ("my-run", config_hash(config))
    assert record.env.runtime_dtype == "float32"
    EnvironmentFile.model_validate(read_json(run / "env.json"))
    GitState.model_validate(read_json(run / "git.json"))
    assert config_hash(load_run_config(run / "config_resolved.yaml")) == config_hash(config)
    beats = [EvalHeartbeat.model_validate(beat) for beat in heartbeats(run, "eval")]
    assert [(beat.status, beat.reason, beat.step) for beat in beats] == [
        ("running", "startup", 0),
        *(("running", "progress", step) for step in (1, 2, 3)),
        ("running", "finalizing", 3),
        ("completed", "completed", 3),
    ]
    kernel = read_record(run)
    assert (kernel.status, kernel.exit_code, kernel.entries[-1].phase, kernel.entries[-1].last_step) == ("completed", 0, "eval", 3)
    assert read_heartbeat(run).state == "terminal"


def test_a_finished_phase_started_again_says_so(config: RunConfig, tmp_path: Path) -> None:
    """Acceptance 28."""
    assert [run_eval(config, tmp_path / "run", units) for _ in range(2)] == [0, 0]
    last = heartbeat(tmp_path / "run", "eval")
    assert (last["status"], last["reason"], last["resumed_from"]) == ("completed", "already_completed", PROGRESS)
    assert heartbeats(tmp_path / "run", "eval")[-2]["status"] == "resumed"


def test_a_pause_request_is_consumed_and_acknowledged(config: RunConfig, tmp_path: Path) -> None:
    """Acceptance 25, for phases that count units."""
    run = tmp_path / "run"

    def asked(phase: PhaseRun) -> str:
        ask(phase.folder, "pause", actor="test")
        ask(phase.folder, "rollback", actor="test")
        return units(phase)

    assert run_eval(config, run, asked) == 3
    assert not list((run / "control").glob("*.request"))
    ack = UnitPauseAck.model_validate(read_json(run / "control" / "pause_ack_eval.json"))
    assert (ack.reason, ack.resume_state, ack.completed_units, ack.total_units) == ("pause_request", PROGRESS, 0, 3)
    assert heartbeat(run, "eval")["status"] == "paused"
    assert {answer["kind"]: answer["outcome"] for answer in answers(run)} == {"pause": "paused", "rollback": "refused"}
    assert (read_record(run).status, read_record(run).exit_code) == ("paused", 3)
    assert run_eval(config, run, units) == 0
    assert not (run / "control" / "pause_ack_eval.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_and_a_resume_adds_up_the_time(config: RunConfig, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"

    def interrupted(phase: PhaseRun) -> str:
        phase.begin(total=3)
        phase.beat(2, "curve_progress", current_unit={"kind": "curve", "delta_norm": 0.5})
        os.kill(os.getpid(), number)
        phase.pause_if_asked(lambda reason: phase.folder / "metrics" / "stability_progress.json")
        raise AssertionError("a pause does not return")

    def resumed(phase: PhaseRun) -> str:
        phase.begin(total=3, step=2, resumed_from=phase.folder / "metrics" / "stability_progress.json", elapsed_before=100.0)
        return "completed"

    for work, status in ((interrupted, 3), (resumed, 0)):
        code = run_phase("stability", work, config=config, config_path=TINY, run_dir=run, command=["stability"])  # type: ignore[arg-type]
        assert code == status
    paused, startup = heartbeats(run, "stability")[2:4]
    assert (paused["status"], paused["reason"], paused["step"]) == ("paused", "keyboard_interrupt", 2)
    assert (startup["status"], startup["reason"], startup["resumed_from"]) == (
        "resumed",
        "startup_resume",
        "metrics/stability_progress.json",
    )
    assert startup["elapsed_wall_sec"] >= 100.0 and startup["steps_per_sec"] <= 0.02
    for beat in heartbeats(run, "stability"):
        StabilityHeartbeat.model_validate(beat)


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("out of luck"), 1), (LoadError("no such model"), 1), (ConfigError([Fault("seed", "x", "y")]), 2)],
)
def test_an_exception_leaves_a_failed_heartbeat(
    config: RunConfig, tmp_path: Path, error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 29."""

    def failing(phase: PhaseRun) -> str:
        phase.begin(total=3)
        phase.beat(1, "progress")
        raise error

    assert run_eval(config, tmp_path / "run", failing) == status
    last = heartbeat(tmp_path / "run", "eval")
    EvalHeartbeat.model_validate(last)
    assert (last["status"], last["reason"], last["error"], last["step"]) == ("failed", type(error).__name__, str(error), 1)
    assert read_record(tmp_path / "run").status == "failed"
    assert ("Traceback" in capsys.readouterr().err) == (type(error) is RuntimeError)


def test_another_configuration_is_refused_without_a_trace_and_archived_on_request(config: RunConfig, tmp_path: Path) -> None:
    """Acceptance 27."""
    run = tmp_path / "run"
    assert run_eval(config, run, units) == 0
    other = config.model_copy(update={"seed": 7})
    before = contents(run)
    assert run_eval(other, run, units) == 2
    assert contents(run) == before

    assert run_eval(config, run, units, resume=False) == 0
    (kept,) = (run / "archive").iterdir()
    assert sorted(contents(kept)) == ["logs/eval_heartbeat.json", "logs/eval_heartbeat.jsonl", PROGRESS]
    assert heartbeats(run, "eval")[0]["reason"] == "startup"
    assert contents(run)["run_record.json"] == before["run_record.json"]

    assert run_eval(other, run, units, resume=False) == 0
    newest = max((run / "archive").iterdir())
    assert contents(newest)["run_record.json"] == before["run_record.json"]
    assert read_json(run / "run_record.json")["config_hash"] == config_hash(other) == read_record(run).config_sha256


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named_before_any_file(config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 32."""
    assert run_eval(config.model_copy(update={"device": "cuda"}), tmp_path / "run", units) == 2
    assert "device: found 'cuda'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_second_writer_is_refused(config: RunConfig, tmp_path: Path) -> None:
    codes = []

    def busy(phase: PhaseRun) -> str:
        codes.append(run_eval(config, tmp_path / "run", units))
        return units(phase)

    assert run_eval(config, tmp_path / "run", busy) == 0
    assert codes == [1]


def test_a_silent_phase_still_beats(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_run, "SILENCE_S", 0.05)

    def slow(phase: PhaseRun) -> str:
        phase.begin(total=3)
        phase.beat(1, "progress")
        deadline = time.monotonic() + 60
        while len(heartbeats(phase.folder, "eval")) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        return "completed"

    assert run_eval(config, tmp_path / "run", slow) == 0
    renewed = heartbeats(tmp_path / "run", "eval")[2]
    assert (renewed["status"], renewed["reason"], renewed["step"]) == ("running", "heartbeat", 1)


def test_a_sweep_has_neither_run_record_nor_layout(tmp_path: Path) -> None:
    def work(phase: PhaseRun) -> str:
        phase.begin(total=4)
        return "completed"

    assert run_phase("sweep", work, config=None, config_path="sweep.yaml", run_dir=tmp_path / "s", command=["sweep"]) == 0  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["control", "logs", "run.json", "writer.lock"]
    assert heartbeat(tmp_path / "s", "sweep")["status"] == "completed"


# ---------------------------------------------------------------------- phases of units

COUNTED = ProgressFile("stability", "the progress of a count", own=("units",))
COUNT, COUNT_LOG = "metrics/count.json", "logs/count.jsonl"


def count(config: RunConfig, run: Path, *, upto: int = 5, every: int = 2, **options: Any) -> int:
    """Five units in sessions of their own, by the shared frame; one session is asked to pause after `upto` of them."""
    asked = Asked(config, TINY, run, ("--some", "flags"), heartbeat_every=every, **options)

    def work(phase: PhaseRun) -> str:
        held = COUNTED.read(run)
        done: list[int] = [] if held is None else held["units"]
        session = UnitSession(phase, asked, COUNTED, 5, lambda: {"completed_units": len(done), "created_utc": phase.now(), "units": done})

        def measure() -> dict[str, Any]:
            for unit in range(len(done), 5):
                if unit == upto:
                    (run / "control/pause.request").touch()
                session.pause_if_asked()
                done.append(unit)
                session.finish_unit(len(done), "progress", {"kind": "curve", "delta_norm": float(unit)})
            session.write_log(COUNT_LOG, ({"unit": unit} for unit in done))
            return session.metrics({"sum": sum(done)}, {"repair_checkpoint": session.named(None, None)})

        session.resumed_from = None if held is None else COUNTED.path
        return session.run(len(done), 0.0 if held is None else held["elapsed_wall_sec"], COUNT, measure)

    return run_units(asked, work, COUNTED, (COUNTED.path, COUNT, COUNT_LOG))  # type: ignore[arg-type]


def test_units_are_kept_one_by_one_and_the_metrics_file_comes_last(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert count(config, run, upto=3) == 3
    held = read_json(run / COUNTED.path)
    assert (held["phase"], held["status"], held["reason"], held["completed_units"], held["units"]) == (
        "stability", "paused", "pause_request", 3, [0, 1, 2],
    )  # fmt: skip
    assert held["total_units"] == 5 and held["config_hash"] == config_hash(config) and not (run / COUNT).exists()
    UnitPauseAck.model_validate(read_json(run / "control/pause_ack_stability.json"))
    assert count(config, run) == 0
    assert read_json(run / COUNT) == {
        "run_id": "run", "config_hash": config_hash(config), "metrics": {"sum": 10}, "settings": {"repair_checkpoint": None},
    }  # fmt: skip
    assert len((run / COUNT_LOG).read_text().splitlines()) == 5
    assert [(beat["step"], beat["reason"]) for beat in heartbeats(run, "stability")] == [
        (0, "startup"), (2, "progress"), (3, "pause_request"),
        (3, "startup_resume"), (4, "progress"), (5, "progress"), (5, "completed"),
    ]  # fmt: skip
    before = contents(run / "metrics")
    assert count(config, run) == 0 and contents(run / "metrics") == before
    assert heartbeat(run, "stability")["reason"] == "already_completed"
    assert read_record(run).resume_command[-1] == "--resume"
    assert count(config, run, resume=False, allow_untrained=True) == 0
    assert len(list(run.glob(f"archive/*/{COUNT}"))) == len(list(run.glob(f"archive/*/{COUNTED.path}"))) == 1
    assert read_record(run).resume_command[-1] == "--allow_untrained"


def test_progress_of_another_configuration_or_without_its_keys_is_refused(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "metrics").mkdir(parents=True)
    whole = {"config_hash": "0" * 64, "units": [], "created_utc": "", "elapsed_wall_sec": 0.0, "total_units": 5}
    write_json(run / COUNTED.path, whole)
    assert count(config, run) == 2
    assert "as recorded in stability_progress.json" in capsys.readouterr().err
    write_json(run / COUNTED.path, {"config_hash": "0" * 64, "total_units": 5})
    assert count(config, run) == 1
    said = capsys.readouterr().err
    assert "it lacks units, created_utc, elapsed_wall_sec" in said and "the progress of a count" in said and "--no-resume" in said
    assert sorted(contents(run)) == [COUNTED.path]
