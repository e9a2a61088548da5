"""Each rule of consistency holds for sound records and is broken by the fault it names. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from guild.places import Places
from guild.progression.consistency import RULES, Kind, Records, check
from guild.progression.detectors import SEVERITIES
from guild.progression.records_read import check_consistency, read_records
from guild.records import jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from helpers.guild_house import make_house
from helpers.guild_jobs import ME, data_file
from helpers.guild_sparring import trained_to

TINY = CampaignId("tiny", "campaign-001")


def sound(base: Path) -> tuple[Places, Records]:
    """A house with jobs in many states and two checkpoints."""
    places = make_house(base)
    with open_guild(places) as db:
        for number, name in enumerate(("done", "skipped", "failed", "waits")):
            jobs.enqueue(db, data_file(name, mtime=number))
        for end in (
            lambda job: jobs.finish(db, job, ME),
            lambda job: jobs.skip(db, job, ME),
            lambda job: jobs.fail(db, job, ME, "no"),
        ):
            held = jobs.claim(db, ME, kinds=("train_file",))
            assert held is not None
            end(held.id)
        held = jobs.claim(db, ME, kinds=("train_file",))
        assert held is not None
        jobs.pause(db, held.id, ME)
        for step in (100, 200):
            trained_to(db, places, step, TINY)
        return places, read_records(db, places)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return sound(tmp_path_factory.mktemp("house") / "guild")[1]


def test_sound_records_break_no_rule(tmp_path: Path) -> None:
    places, found = sound(tmp_path / "guild")
    assert len(found.jobs) == 4 and len(found.checkpoints) == 2 and found.active == "tiny/campaign-001" and found.folders
    with open_guild(places) as db:
        assert check_consistency(db, places) == []


def test_all_kinds_and_severities_are_there() -> None:
    assert {rule.kind for rule in RULES} == set(get_args(Kind)) and {rule.severity for rule in RULES} == set(SEVERITIES)
    assert len({rule.name for rule in RULES}) == len(RULES)


def with_job(found_in: str, **changes: Any) -> Callable[[Records], Records]:
    def change(records: Records) -> Records:
        found = next(job for job in records.jobs if job.state == found_in)
        return replace(records, jobs=tuple(replace(job, **changes) if job is found else job for job in records.jobs))

    return change


def with_checkpoint(at: int, **changes: Any) -> Callable[[Records], Records]:
    def change(records: Records) -> Records:
        return replace(
            records,
            checkpoints=tuple(one.model_copy(update=changes) if place == at else one for place, one in enumerate(records.checkpoints)),
        )

    return change


def two_held(records: Records) -> Records:
    held = next(job for job in records.jobs if job.state == "paused")
    return replace(records, jobs=(*records.jobs, replace(held, id=99, name="other.jsonl")))


def same_name(records: Records) -> Records:
    waiting = next(job for job in records.jobs if job.state == "queued")
    return replace(records, jobs=(*records.jobs, replace(waiting, id=99)))


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("held_jobs_have_holders", with_job("paused", owner=None)),
        ("held_jobs_have_holders", with_job("queued", owner=ME)),
        ("completed_jobs_have_ends", with_job("completed", finished_at=None)),
        ("attempts_in_bounds", with_job("queued", attempts=4)),
        ("logs_follow_the_table", with_job("queued", state="failed")),
        ("logs_follow_the_table", lambda records: replace(records, logs={job: (*words, "resumed") for job, words in records.logs.items()})),
        ("ledger_lists_folders", lambda records: replace(records, folders=frozenset())),
        ("active_campaign_exists", lambda records: replace(records, active="tiny/campaign-009")),
        ("campaigns_of_jobs_exist", with_job("queued", campaign="tiny/campaign-009")),
        ("one_job_trains", two_held),
        ("one_job_for_a_name", same_name),
        ("levels_exist", lambda records: replace(records, mastered={"bin": (31, 30)})),
        ("jobs_end_after_they_begin", with_job("completed", started_at="2126-01-01T00:00:00Z")),
        ("checkpoints_in_order", with_checkpoint(0, timestamp="2020-01-01T00:00:00Z")),
        ("nothing_is_in_the_future", lambda records: replace(records, now=datetime(2020, 1, 1, tzinfo=UTC))),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_rule(records: Records, rule: str, fault: Callable[[Records], Records]) -> None:
    found = check(fault(records))
    assert found and {one.rule for one in found} == {rule}
    assert all(one.message.endswith(".") and one.subject for one in found)


def test_clocks_may_differ_a_little(records: Records) -> None:
    assert check(replace(records, now=records.now - timedelta(minutes=4))) == []


def test_a_log_whose_beginning_is_pruned_is_not_judged(records: Records) -> None:
    assert check(replace(records, logs={job: (*words[1:], "resumed") for job, words in records.logs.items()})) == []
