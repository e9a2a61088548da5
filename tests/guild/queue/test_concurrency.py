"""Real processes at the same time. (acceptance 2)"""

from __future__ import annotations

import json
from pathlib import Path

from guild.queue.folders import scan
from guild.queue.models import QueueMetadata
from guild.records.database import open_guild
from helpers.guild_jobs import run_all
from helpers.guild_queue import all_jobs, check_whole, new_queue, put
from modelwright.files import read_json

TAKER = """
import json, sys, time
from guild.places import Places
from guild.queue.marks import mark_completed, take
from guild.records.database import open_guild
from guild.records.jobs import counts
from modelwright.identity import current_identity
places, me, got = Places.of(sys.argv[1]), current_identity(), []
with open_guild(places) as db:
    while counts(db).states["completed"] < int(sys.argv[2]):
        taken = take(db, places, me)
        if taken is None:
            time.sleep(0.002)  # the other one holds the only slot
            continue
        got.append([taken.job.name, taken.path.read_text()])
        mark_completed(db, places, taken.job.id, me)
print(json.dumps(got))
"""
MIXED = """
import sys, time
from pathlib import Path
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.marks import mark_completed, mark_failed, mark_rejected, mark_skipped, take
from guild.records.database import open_guild
from modelwright.identity import current_identity
places, who, me = Places.of(sys.argv[1]), sys.argv[2], current_identity()
calls = 0
with open_guild(places) as db:
    for number in range(25):
        add_file(db, places, places.base / "outside" / f"{who}_{number}.jsonl", validate=False)
        calls += 1
        while (taken := take(db, places, me)) is None:
            time.sleep(0.01)
        turn = number % 4
        if turn == 0:
            mark_failed(db, places, taken.job.id, me, f"error of {who} {number}")
        elif turn == 1:
            mark_skipped(db, places, taken.job.id, me, reason=f"skip of {who} {number}")
        elif turn == 2:
            mark_rejected(db, places, taken.job.id, me, f"unfit for {who} {number}")
        else:
            mark_completed(db, places, taken.job.id, me)
        calls += 1
print(calls)
"""


def test_item_2_two_concurrent_takers_never_receive_the_same_file(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    names = [f"file {number}.jsonl" for number in range(30)]
    for number, name in enumerate(names):
        put(places.level("normal") / name, age_s=1000 - number)
    open_guild(places).close()
    first, second = (json.loads(said) for said in run_all(TAKER, [(tmp_path, 30)] * 2))
    assert sorted(name for name, _ in first + second) == sorted(names)
    assert all(name in text for name, text in first + second)
    assert len(scan(places).data) == 30
    with open_guild(places) as db:
        check_whole(db, places)


def test_item_2_two_hundred_concurrent_calls_lose_no_entry(memory_path: Path) -> None:
    places = new_queue(memory_path)
    for who in "abcd":
        for number in range(25):
            put(places.base / "outside" / f"{who}_{number}.jsonl", age_s=1000)
    assert [int(said) for said in run_all(MIXED, [(memory_path, who) for who in "abcd"])] == [50] * 4
    with open_guild(places) as db:
        check_whole(db, places)
        jobs = all_jobs(db)
    assert len(jobs) == 100
    document = read_json(places.queue_metadata)
    QueueMetadata.model_validate(document)
    said_failed = {entry["last_error"] for entry in document["failed"] if "final_failure" not in entry}
    assert len(document["processed"]) == sum(job.state == "completed" for job in jobs)
    assert document["totals"]["skipped"] == len(document["skipped"]) == sum(job.skips for job in jobs) == 24
    assert sum(job.attempts for job in jobs) == 28
    assert len([entry for entry in document["failed"] if "final_failure" in entry]) == sum(
        job.state in ("failed", "rejected") for job in jobs
    )
    assert said_failed == {job.error for job in jobs if job.state == "queued" and job.attempts}
    assert len({reason["reason"] for reason in document["skipped"]}) == 24
    assert document["processing"] == []
    names = sorted(entry.name for entry in scan(places).data.values() if entry.folder != "recently_completed")
    assert names == sorted(job.name or "" for job in jobs if job.state != "completed")
    assert len(scan(places).data) == 100
