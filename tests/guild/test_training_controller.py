"""The command `guild control`, as a user runs it, beside a real process that plays the daemon. (specs/guild.md 3.2; acceptance 8)"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from guild.control.forward import forward_signals
from guild.control.signals import active
from guild.control.state import read_state, write_state
from guild.places import Places
from guild.queue.folders import make_folders
from guild.queue.marks import mark_skipped, take
from guild.records.database import open_guild
from guild.training_controller import HELP_PAGES, main
from helpers.guild_control import small_daemon
from helpers.guild_jobs import ME
from helpers.guild_queue import put
from helpers.unprivileged import _DROP as WITHOUT_PRIVILEGE
from modelwright.files import write_json
from modelwright.identity import current_identity


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setenv("TRAINING_BASE_DIR", str(tmp_path))
    return Places(tmp_path)


def daemon_here(places: Places) -> None:
    """Let this process pass for the daemon."""
    write_json(places.daemon_pid, current_identity().as_dict())


def test_signals_are_written_with_reason_and_time(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    daemon_here(places)
    assert [main([kind]) for kind in ("pause", "stop")] == [0, 0]
    assert main(["skip", "--reason", "too long"]) == 0
    for kind, reason in (("pause", "User requested"), ("stop", "User requested"), ("skip", "too long")):
        lines = (places.control / f".{kind}").read_text().splitlines()
        assert lines[0] == reason and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[1]) and len(lines) == 2
    out, err = capsys.readouterr()
    assert out.startswith("Pause signal written: ") and err == ""
    assert main(["clear"]) == 0
    assert capsys.readouterr().out == "Cleared signals: pause, stop, skip\n"
    assert main(["clear"]) == 0
    assert capsys.readouterr().out == "Cleared signals: None\n"


def test_without_a_daemon_the_signal_is_written_and_its_end_is_told(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["daemon"] == "dead" and "No daemon is running" in err
    assert active(places)["pause"]


def test_item_8_resume_with_nothing_paused_exits_1(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    daemon_here(places)
    assert main(["resume"]) == 1
    assert "nothing that is paused" in capsys.readouterr().err and not active(places)["resume"]
    for status in ("training", "idle", "stopping"):
        write_state(places, status)  # type: ignore[arg-type]
        assert main(["resume"]) == 1
    write_state(places, "training", pending="pause")  # taken, and the step is being finished
    assert main(["resume"]) == 0
    write_state(places, "paused")
    assert main(["resume"]) == 0 and (places.control / ".resume").read_bytes() == b""


def test_item_8_a_pause_after_a_stale_resume_is_alone(places: Places) -> None:
    places.control.mkdir()
    (places.control / ".resume").touch()
    assert main(["pause"]) == 0
    assert active(places) == {"pause": True, "stop": False, "skip": False, "resume": False}


def test_a_pause_that_nobody_took_can_be_resumed(places: Places) -> None:
    assert main(["pause"]) == 0
    assert main(["resume"]) == 0


def test_status_prints_what_there_is(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "Status: idle\nActive Signals: None\n"
    assert not places.control.exists(), "looking writes nothing"
    daemon_here(places)
    write_state(places, "paused", current_file="a.jsonl", reason="GPU needed")
    main(["stop"])
    capsys.readouterr()
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Status", "Last Update", "Current File", "Reason", "Paused At", "Active Signals"]
    assert (lines[0], lines[2], lines[3], lines[5]) == (
        "Status: paused",
        "Current File: a.jsonl",
        "Reason: GPU needed",
        "Active Signals: stop",
    )
    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["signals"] == {"pause": False, "stop": True, "skip": False, "resume": False}
    assert (status["schema_version"], status["status"], status["stale"]) == (1, "paused", False)


def test_a_state_that_nobody_stands_behind_is_stale(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(places, "training", current_file="a.jsonl")
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("Status: training (stale: the daemon is not running)\n")


def test_wait_returns_when_it_is_reached(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with small_daemon(places):
        assert main(["pause", "--reason", "GPU needed", "--wait", "30"]) == 0
        assert read_state(places).status == "paused" and read_state(places).reason == "GPU needed"
        assert main(["resume", "--wait"]) == 0
        assert read_state(places).status == "training"
        assert capsys.readouterr().out == "Training is paused.\nTraining is running again.\n"
        (places.control / ".pause").touch()  # by hand, the same
        assert main(["pause", "--wait", "30", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["reached"] is True


def test_wait_for_a_daemon_that_does_not_listen_ends_with_1(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with small_daemon(places, listens=False) as daemon:
        assert main(["pause", "--wait", "0.5"]) == 1
        assert "not reached within 0.5 seconds (status: training)" in capsys.readouterr().err
        assert active(places)["pause"], "the signal stands"
        daemon.kill()
        daemon.wait()
        assert main(["skip", "--wait", "30"]) == 1
        assert "No daemon is running" in capsys.readouterr().err


def test_a_skip_is_reached_when_the_file_was_put_behind_the_others(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    make_folders(places)
    put(places.level("normal") / "a.jsonl")
    with open_guild(places) as db, small_daemon(places, listens=False):
        taken = take(db, places, ME)
        assert taken is not None
        command = [sys.executable, "-m", "guild.training_controller", "skip", "--wait", "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            while not (found := forward_signals(places, taken.path.parent, paused=False).asked):
                assert waiting.poll() is None
            assert found[0][0].kind == "skip" and waiting.poll() is None
            mark_skipped(db, places, taken.job.id, ME, reason=found[0][0].reason)
            assert waiting.communicate(timeout=60)[0] == "Training is past that file.\n"
        assert waiting.returncode == 0


def test_a_stop_is_reached_when_the_daemon_is_gone(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with small_daemon(places) as daemon:
        assert main(["stop", "--wait", "60"]) == 0
        assert daemon.poll() == 0
        assert capsys.readouterr().out == "Training is stopped.\n"


def test_wrong_seconds_are_a_usage_error(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "--wait", "-3"]) == 2
    assert "--wait: found -3" in capsys.readouterr().err and not active(places)["pause"]


def test_a_signal_that_cannot_be_written_exits_1(places: Places) -> None:
    places.control.mkdir()
    places.control.chmod(0o500)
    command = [sys.executable, "-c", WITHOUT_PRIVILEGE, "-m", "guild.training_controller", "pause", "--base-dir", str(places.base)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        places.control.chmod(0o700)
    assert done.returncode == 1, done
    assert "permission denied" in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_pages_have_examples_and_load_nothing_heavy() -> None:
    for page in HELP_PAGES:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "guild.training_controller", *page, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "example" in done.stdout
        loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert not {name for name in loaded if name.split(".")[0] in ("torch", "transformers", "pydantic", "apsw", "numpy")}
