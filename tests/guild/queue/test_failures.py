"""`guild queue list --failed`: what failed, where it lies and why. A cancelled file leaves its name to others. (guild.md 2.1.2, 3.3)"""

from __future__ import annotations

import json

import pytest

from guild.errors import RefusedError
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.failures import FailedFile, list_failed
from guild.queue.inbox import process_inbox
from guild.queue.marks import cancel, mark_failed, mark_rejected, retry, take
from guild.queue.reconcile import reconcile
from guild.records import jobs
from guild.records.database import open_guild
from guild.training_queue import main
from helpers.guild_queue import check_whole, lying, put
from modelwright.database import Database
from modelwright.identity import current_identity

ME = current_identity()


def hold(db: Database, places: Places) -> int:
    taken = take(db, places, ME)
    assert taken is not None
    return taken.job.id


def by_name(places: Places) -> dict[str, FailedFile]:
    return {row.name: row for row in list_failed(places)}


def test_every_failed_file_is_listed_with_its_reason(db: Database, places: Places) -> None:
    for name in ("again.jsonl", "parked.jsonl", "unfit.jsonl", "taken.jsonl", "fine.jsonl"):
        add_file(db, places, put(places.base / name))
    mark_failed(db, places, hold(db, places), ME, "out of memory")
    job = hold(db, places)
    mark_failed(db, places, job, ME, "one")
    cancel(db, places, "taken.jsonl", reason="wrong level")
    mark_rejected(db, places, hold(db, places), ME, "rows: found none; allowed: some.\nlengths: too long.")
    put(places.failed / "stranger.jsonl")
    found = by_name(places)
    assert set(found) == {"again.jsonl", "parked.jsonl", "unfit.jsonl", "taken.jsonl", "stranger.jsonl"}
    assert (found["again.jsonl"].state, found["again.jsonl"].attempts, found["again.jsonl"].reason) == ("waiting", 1, "out of memory")
    assert (found["again.jsonl"].place, found["again.jsonl"].most_attempts) == ("low/again.jsonl", 3)
    assert (found["unfit.jsonl"].state, found["unfit.jsonl"].reason.splitlines()[1]) == ("rejected", "lengths: too long.")
    assert (found["taken.jsonl"].state, found["taken.jsonl"].reason) == ("cancelled", "wrong level")
    assert (found["stranger.jsonl"].state, found["stranger.jsonl"].job) == ("parked", None)
    retry(db, places, "taken.jsonl")
    assert "taken.jsonl" not in by_name(places)


def test_a_parked_file_says_how_often_it_was_tried(db: Database, places: Places) -> None:
    add_file(db, places, put(places.base / "a.jsonl"))
    for number in range(3):
        mark_failed(db, places, hold(db, places), ME, f"failure {number}")
    only = list_failed(places)[0]
    assert (only.state, only.attempts, only.place, only.reason) == ("failed", 3, "failed/a.jsonl", "failure 2")


def test_of_the_original_the_document_says_why(places: Places) -> None:
    put(places.failed / "old.jsonl")
    entry = {"file": "old.jsonl", "attempts": 3, "last_error": "CUDA out of memory", "final_failure": "2025-11-01T10:00:00"}
    places.queue_metadata.write_text(json.dumps({"processed": [], "skipped": [], "failed": [entry]}))
    assert list_failed(places) == [
        FailedFile("old.jsonl", "failed/old.jsonl", "parked", 3, None, "CUDA out of memory", "2025-11-01T10:00:00", None)
    ]
    assert not places.database.exists()


def test_the_command_prints_names_states_and_reasons(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["list", "--failed", "--base-dir", str(places.base)]
    assert main(words) == 0 and capsys.readouterr().out == "No file has failed.\n"
    with open_guild(places) as db:
        add_file(db, places, put(places.base / "a.jsonl"))
        mark_failed(db, places, hold(db, places), ME, "out of memory")
    assert main(words) == 0
    head, row, reason = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "STATE", "ATTEMPTS", "SINCE"] and row.split()[:5] == ["a.jsonl", "waiting", "1", "of", "3"]
    assert row.endswith("queue/low/a.jsonl") and reason.strip() == "out of memory"
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1 and told["files"][0]["reason"] == "out of memory"
    with pytest.raises(SystemExit):
        main([*words, "--priority", "high"])


def test_a_name_whose_only_job_was_cancelled_can_be_added_again(db: Database, places: Places) -> None:
    first = add_file(db, places, put(places.base / "a.jsonl"))
    cancel(db, places, "a.jsonl")
    second = add_file(db, places, put(places.base / "a.jsonl", rows=3))
    assert (second.state, second.id != first.id) == ("queued", True)
    assert lying(places) == {"normal": ["a.jsonl"], "failed": ["a.jsonl"]}
    check_whole(db, places)
    assert jobs.get(db, first.id).state == "cancelled"
    for number in range(3):  # it lies beside the cancelled one when it fails too
        mark_failed(db, places, hold(db, places), ME, f"failure {number}")
    assert lying(places)["failed"] == ["a.jsonl", f"a_{second.id}.jsonl"]
    with pytest.raises(RefusedError, match="failed"):
        add_file(db, places, put(places.base / "a.jsonl"))


def test_a_cancelled_file_itself_can_be_added_from_where_it_lies(db: Database, places: Places) -> None:
    first = add_file(db, places, put(places.base / "a.jsonl"))
    cancel(db, places, "a.jsonl")
    second = add_file(db, places, places.failed / "a.jsonl")
    reconcile(db, places)
    assert (jobs.get(db, first.id).state, jobs.get(db, second.id).state) == ("cancelled", "queued")
    assert lying(places) == {"normal": ["a.jsonl"]}
    check_whole(db, places)


def test_the_inbox_and_a_file_put_by_hand_may_have_a_cancelled_name_too(db: Database, places: Places) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        add_file(db, places, put(places.base / name))
        cancel(db, places, name)
    put(places.inbox / "a.jsonl")
    assert process_inbox(db, places).queued == ["a.jsonl"]
    put(places.level("high") / "b.jsonl")
    assert reconcile(db, places).imported == ["b.jsonl"]
    check_whole(db, places)
