"""The state document, whether the daemon lives, and what `status` makes of both. (specs/guild.md 4.1, G6; acceptance 4, 9)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.control.daemon import daemon_liveness
from guild.control.models import ControlStateDocument
from guild.control.signals import give
from guild.control.state import RECOVERED, read_state, recover_state, write_state
from guild.control.status import get_status
from guild.places import Places
from helpers.guild_jobs import died, living, stranger
from modelwright.clock import ManualClock
from modelwright.errors import DamagedFileError
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity

NOON = datetime(2026, 5, 6, 12, tzinfo=UTC)


def test_the_document_has_the_fields_of_the_contract_and_keeps_unknown_ones(tmp_path: Path) -> None:
    places, clock = Places(tmp_path), ManualClock(NOON)
    assert read_state(places).status == "idle" and not places.control.exists()
    write_state(places, "training", current_file="a.jsonl", clock=clock)
    document = read_json(places.state)
    ControlStateDocument.model_validate(document)
    assert document == {
        "schema_version": 1, "status": "training", "last_update": "2026-05-06T12:00:00Z", "current_file": "a.jsonl", "paused_at": None,
        "reason": None, "pending": None,
    }  # fmt: skip
    write_json(places.state, {**document, "colour": "red"})
    write_state(places, "idle", clock=clock)
    assert read_json(places.state)["colour"] == "red"


def test_paused_at_is_kept_while_it_stays_paused(tmp_path: Path) -> None:
    places, clock = Places(tmp_path), ManualClock(NOON)
    write_state(places, "paused", current_file="a.jsonl", reason="GPU needed", clock=clock)
    clock.advance(60)
    state = write_state(places, "paused", current_file="a.jsonl", reason="GPU needed", clock=clock)
    assert (state.paused_at, state.last_update) == ("2026-05-06T12:00:00Z", "2026-05-06T12:01:00Z")
    assert write_state(places, "training", clock=clock).paused_at is None


def test_a_damaged_document_is_named_to_readers_and_kept_aside_by_the_writer(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.control.mkdir()
    places.state.write_text('{"status": "dancing"}')
    with pytest.raises(DamagedFileError, match="dancing"):
        read_state(places)
    places.state.write_text('{"status": ')
    write_state(places, "idle")
    assert read_state(places).status == "idle"
    assert places.state.with_name("state.json.damaged").read_text() == '{"status": '


@pytest.mark.parametrize("status", ["training", "paused", "stopping", "skipping"])
def test_what_a_dead_daemon_left_becomes_idle(status: str, tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.control.mkdir()
    places.state.write_text(
        json.dumps({"status": status, "last_update": "x", "current_file": "a.jsonl", "paused_at": None, "reason": None})
    )
    assert recover_state(places)
    state = read_state(places)
    assert (state.status, state.reason, state.current_file) == ("idle", RECOVERED, None)
    written = places.state.read_bytes()
    assert not recover_state(places)
    assert places.state.read_bytes() == written


def test_the_daemon_is_known_by_pid_start_time_and_boot(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert daemon_liveness(places) == "dead"
    for identity, expected in ((current_identity(), "alive"), (died(), "dead"), (stranger(), "dead")):
        write_json(places.daemon_pid, identity.as_dict())
        assert daemon_liveness(places) == expected
    for text in ("", "no pid", "99999999999999", "{}"):
        places.daemon_pid.write_text(text)
        assert daemon_liveness(places) == "dead"


def test_a_pid_alone_names_the_process_that_was_there_when_it_was_written(tmp_path: Path) -> None:
    places = Places(tmp_path)
    process, identity = living()
    try:
        places.daemon_pid.write_text(f"{identity.pid}\n")
        assert daemon_liveness(places) == "alive"
        long_ago = time.time() - 10_000
        os.utime(places.daemon_pid, (long_ago, long_ago))
        assert daemon_liveness(places) == "dead", "the process is younger than the file"
    finally:
        process.communicate()
    os.utime(places.daemon_pid)
    assert daemon_liveness(places) == "dead"


def test_status_shows_signals_and_calls_a_state_without_a_daemon_stale(tmp_path: Path) -> None:
    places = Places(tmp_path)
    write_state(places, "training", current_file="a.jsonl")
    give(places, "skip")
    status = get_status(places)
    assert status["signals"] == {"pause": False, "stop": False, "skip": True, "resume": False}
    assert (status["status"], status["stale"], status["daemon"]) == ("training", True, "dead")
    write_json(places.daemon_pid, current_identity().as_dict())
    assert not get_status(places)["stale"]


def test_many_writers_leave_one_whole_document(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom guild.control.state import write_state\nfrom guild.places import Places\n"
        "for n in range(30): write_state(Places.of(sys.argv[1]), 'training', current_file=f'{sys.argv[2]}_{n}.jsonl')"
    )
    Places(tmp_path).control.mkdir()
    Places(tmp_path).state.write_text('{"status": "idle", "colour": "red", "schema_version": 1}')
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who]) for who in "abc"]
    while any(writer.poll() is None for writer in writers):
        assert read_state(Places(tmp_path)).other == {"colour": "red"}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert (read_state(Places(tmp_path)).current_file or "").endswith("_29.jsonl")
