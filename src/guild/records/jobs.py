"""The job store: everything that is done with jobs, under one name.

    with open_guild(places) as db:
        job = jobs.enqueue(db, jobs.NewJob("train_file", {"file": "train_bin_level1_100.jsonl"}, "high", ordinal=mtime_ns))
        held = jobs.claim(db, current_identity(), resource="trainer")
        jobs.heartbeat(db, held.id, me, position=400)
        jobs.finish(db, held.id, me, {"loss": 0.7})

States and transitions: `guild.records.states`. Kinds: `kinds`. Taking back what dead workers hold: `leases`. What happened: `events`.
"""

from __future__ import annotations

from guild.records.job_errors import (
    DuplicateJobError,
    IllegalTransitionError,
    NotHeldError,
    QueueFullError,
    UnknownJobError,
    UnknownKindError,
)
from guild.records.job_rows import Job
from guild.records.leases import Recovered, overdue, recover, stalled
from guild.records.listing import Counts, Listing, counts, find_file, get, list_jobs
from guild.records.operating import cancel, dismiss, forget, reject_waiting, retry, set_priority
from guild.records.submitting import NewJob, Submitted, enqueue, enqueue_many, submit
from guild.records.workers import cancel_held, claim, fail, finish, heartbeat, pause, reject, release, resume, skip, takeable, transfer

__all__ = [
    "Counts",
    "DuplicateJobError",
    "IllegalTransitionError",
    "Job",
    "Listing",
    "NewJob",
    "NotHeldError",
    "QueueFullError",
    "Recovered",
    "Submitted",
    "UnknownJobError",
    "UnknownKindError",
    "cancel",
    "cancel_held",
    "claim",
    "counts",
    "dismiss",
    "enqueue",
    "enqueue_many",
    "fail",
    "find_file",
    "finish",
    "forget",
    "get",
    "heartbeat",
    "list_jobs",
    "overdue",
    "pause",
    "recover",
    "reject",
    "reject_waiting",
    "release",
    "resume",
    "retry",
    "set_priority",
    "skip",
    "stalled",
    "submit",
    "takeable",
    "transfer",
]
