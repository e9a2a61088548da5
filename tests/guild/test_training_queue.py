"""The command `guild queue`, as a user runs it. (specs/guild.md 3.3)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guild.places import Places
from guild.queue.marks import mark_failed, mark_rejected, take
from guild.records.database import open_guild
from guild.training_queue import HELP_PAGES, build_parser, main
from helpers.guild_jobs import ME, died
from helpers.guild_queue import age, lying, new_queue, put


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setenv("TRAINING_BASE_DIR", str(tmp_path / "guild"))
    return new_queue(tmp_path / "guild")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return err if code and not out else out


def test_status_names_every_count(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    put(places.level("high") / "a.jsonl")
    lines = said(capsys, "status").splitlines()
    assert [line.split() for line in lines] == [
        ["High:", "1"], ["Normal:", "0"], ["Low:", "0"], ["Total:", "1"], ["Processing:", "0"], ["Completed:", "0"], ["Failed:", "0"],
        ["Skipped:", "0"],
    ]  # fmt: skip
    status = json.loads(said(capsys, "status", "--json"))
    assert status["queued"] == {"high": 1, "normal": 0, "low": 0, "total": 1} and status["schema_version"] == 1
    assert not places.database.exists(), "looking writes nothing"


def test_list_shows_name_priority_size_and_time(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "list") == "No files in queue\n"
    put(places.base / "a b.jsonl", rows=9000)
    said(capsys, "add", str(places.base / "a b.jsonl"), "--priority", "low")
    put(places.level("low") / "hand.jsonl")
    header, first, second = said(capsys, "list").splitlines()
    size = (places.level("low") / "a b.jsonl").stat().st_size / 2**20
    assert header.split() == ["NAME", "PRIORITY", "SIZE", "MB", "ADDED"]
    assert first.startswith("a b.jsonl") and first.split()[2:4] == ["low", f"{size:.1f}"] and first.endswith("Z")
    assert second.startswith("hand.jsonl") and second.endswith("(not yet taken in)")
    assert said(capsys, "list", "--priority", "high") == "No files in queue\n"
    assert [row["name"] for row in json.loads(said(capsys, "list", "--json"))["files"]] == ["a b.jsonl", "hand.jsonl"]


def test_add_moves_or_copies_and_refuses_with_exit_1(places: Places, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl")
    assert said(capsys, "add", str(path), "--copy") == "Added a.jsonl with priority normal (job 1).\n"
    assert path.is_file() and lying(places) == {"normal": ["a.jsonl"]}
    assert "found a job of that name" in said(capsys, "add", str(path), code=1)
    assert "no such file" in said(capsys, "add", str(tmp_path / "none.jsonl"), code=1)
    assert "does not end in .jsonl" in said(capsys, "add", str(put(tmp_path / "a.txt")), code=1)
    (tmp_path / "bad.jsonl").write_text("{\n[1]\n")
    told = said(capsys, "add", str(tmp_path / "bad.jsonl"), "--schema", "chat_sft_v1", code=1)
    assert len(told.splitlines()) == 2 and all(line.startswith("bad.jsonl: ") for line in told.splitlines())


def test_process_inbox_prints_the_count_and_parks_what_fails(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    put(places.inbox / "deep" / "a.jsonl")
    put(places.inbox / "b.jsonl")
    assert said(capsys, "process-inbox", "--priority", "high") == "Processed 2 files from the inbox.\n"
    assert lying(places) == {"high": ["a.jsonl", "b.jsonl"]}
    (places.inbox / "bad.jsonl").write_text("{\n")
    age(places.inbox / "bad.jsonl", 60)
    assert main(["process-inbox"]) == 1
    out, err = capsys.readouterr()
    assert out == "Processed 0 files from the inbox.\n" and err.startswith("bad.jsonl failed validation and is in queue/failed/.")


def test_set_priority_retry_and_cancel(places: Places, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said(capsys, "add", str(put(tmp_path / "a.jsonl")))
    assert said(capsys, "set-priority", "a.jsonl", "high") == "a.jsonl has priority high now.\n"
    assert lying(places) == {"high": ["a.jsonl"]}
    assert "job: found 'x.jsonl'" in said(capsys, "set-priority", "x.jsonl", "high", code=1)
    with pytest.raises(SystemExit) as stop:
        main(["set-priority", "a.jsonl", "urgent"])
    assert stop.value.code == 2
    assert "in queue/failed/" in said(capsys, "cancel", "a.jsonl", "--reason", "wrong level")
    assert said(capsys, "retry", "a.jsonl", "--priority", "normal") == "a.jsonl is queued again with priority normal.\n"
    with open_guild(places) as db:
        taken = take(db, places, ME)
        assert taken is not None
        assert "its trainer is asked" in said(capsys, "cancel", "a.jsonl")
        mark_rejected(db, places, taken.job.id, ME, "unfit")
    (places.failed / "a.jsonl").unlink()
    assert "a.jsonl" in said(capsys, "retry", "a.jsonl", code=1)


def test_reconcile_says_what_it_did(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "reconcile") == "Nothing to do.\n"
    put(places.level("low") / "a.jsonl")
    assert said(capsys, "reconcile") == "Imported: a.jsonl\n"
    with open_guild(places) as db:
        assert take(db, places, died()) is not None
    assert json.loads(said(capsys, "reconcile", "--json"))["taken_back"] == ["a.jsonl"]
    assert lying(places) == {"low": ["a.jsonl"]}


def test_failures_of_a_file_are_seen_in_the_counts(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    put(places.level("normal") / "a.jsonl")
    with open_guild(places) as db:
        for _ in range(3):
            taken = take(db, places, ME)
            assert taken is not None
            mark_failed(db, places, taken.job.id, ME, "broke")
    status = json.loads(said(capsys, "--json", "status"))
    assert (status["failed"], status["total_queued"]) == (1, 0)


def test_the_base_directory_may_stand_before_and_behind_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "other" / "queue" / "high" / "a.jsonl")
    for arguments in (["--base-dir", str(tmp_path / "other"), "list"], ["list", "--base-dir", str(tmp_path / "other")]):
        assert "a.jsonl" in said(capsys, *arguments)


def test_help_pages_have_examples_and_exit_codes_and_load_nothing_heavy() -> None:
    for page in HELP_PAGES:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "guild.training_queue", *page, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "example" in done.stdout and "exit codes" in done.stdout
        loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert not {name for name in loaded if name.split(".")[0] in ("torch", "transformers", "pydantic", "apsw", "numpy")}
    done = subprocess.run([sys.executable, "-m", "guild.training_queue"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert build_parser().prog == "guild queue"
