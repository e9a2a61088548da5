"""Runs are the jobs of the store, by type. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guild.progression.runs import RUN_TYPES, TYPE_OF_KIND, UnknownRunTypeError, run_type, runs_of
from guild.records import jobs
from guild.records.jobs import UnknownKindError
from guild.records.kinds import KINDS
from helpers.guild_jobs import ME, data_file, report, store


def test_every_kind_of_job_has_a_type() -> None:
    assert set(TYPE_OF_KIND) == set(KINDS) and set(TYPE_OF_KIND.values()) == set(RUN_TYPES)
    with pytest.raises(UnknownKindError):
        run_type("battle")


def test_started_jobs_are_listed_newest_first_and_by_type(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        for new in (data_file("a", mtime=1), report("one"), report("two"), data_file("never", mtime=2)):
            jobs.enqueue(db, new)
        file = jobs.claim(db, ME, kinds=("train_file",))
        assert file is not None
        jobs.finish(db, file.id, ME, {"loss": 0.5})
        for _ in range(2):
            assert jobs.claim(db, ME, kinds=("report",)) is not None
        assert [(run.id, run.type, run.state) for run in runs_of(db)] == [
            (3, "audit", "running"),
            (2, "audit", "running"),
            (1, "training", "completed"),
        ]
        done = runs_of(db, "training")[0]
        assert (done.name, done.result, done.error) == ("a.jsonl", {"loss": 0.5}, "") and done.seconds is not None and done.seconds >= 0
        assert runs_of(db, "audit")[0].seconds is None
        assert [run.id for run in runs_of(db, limit=1)] == [3] and runs_of(db, "evaluation") == []
        assert runs_of(db, campaign="tiny/campaign-001") == []
        with pytest.raises(UnknownRunTypeError, match="training, evaluation, audit, experiment, generation"):
            runs_of(db, "battle")
