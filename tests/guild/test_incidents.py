"""`guild incidents`: people close what the daemon found. (specs/guild.md 2.3.5)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild.incidents import STATUSES, main
from guild.places import Places
from guild.progression import incidents as progression
from guild.progression.incidents import scan
from guild.records import events
from helpers.guild_jobs import store
from modelwright.database import Database


def out_of_memory(db: Database, places: Places) -> list[int]:
    """One more file runs out of memory, and the daemon looks; the incidents that this opens."""
    events.record(db, "training.failed", "a.jsonl: CUDA out of memory", source="trainer", severity="error")
    return [one.id for one in scan(db, places)]


def test_an_incident_is_listed_set_and_the_next_case_after_it_opens_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places, base = Places(tmp_path), ["--base-dir", str(tmp_path)]
    assert main([*base, "list"]) == 0 and capsys.readouterr().out == "No incident.\n"
    with store(tmp_path) as db:
        assert out_of_memory(db, places) == [1] and out_of_memory(db, places) == []
        assert main([*base, "list"]) == 0
        told = capsys.readouterr().out
        assert told.startswith("1  open: Memory ran out (infra, error; 2 cases, ") and "a.jsonl: CUDA out of memory" in told
        assert main([*base, "set", "1", "investigating", "--note", "a larger card is on its way"]) == 0
        assert "Note: a larger card" in capsys.readouterr().out
        assert out_of_memory(db, places) == []  # it is being looked into
        assert main([*base, "set", "1", "resolved", "--json"]) == 0
        changed = json.loads(capsys.readouterr().out)["incident"]
        assert (changed["status"], changed["count"], changed["note"]) == ("resolved", 3, "a larger card is on its way")
        assert out_of_memory(db, places) == [2]  # weeks later
    assert main([*base, "list", "--status", "open", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], [one["id"] for one in document["incidents"]]) == (1, [2])
    assert main([*base, "list", "--status", "wontfix"]) == 0 and capsys.readouterr().out == "None is wontfix.\n"


def test_an_unknown_number_is_refused_and_the_words_are_those_of_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-dir", str(tmp_path), "set", "7", "resolved"]) == 1
    assert "incident: found '7'; allowed: none is defined." in capsys.readouterr().err
    assert STATUSES == progression.STATUSES
