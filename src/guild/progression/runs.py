"""All runs of the guild by type: another look at the jobs of the store, which is their only record. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from guild.errors import UnknownNameError
from guild.records import jobs
from guild.records.jobs import Job
from guild.records.kinds import KINDS, kind_of
from modelwright.clock import parse_stamp
from modelwright.database import Database

RunType = Literal["training", "evaluation", "audit", "experiment", "generation"]
RUN_TYPES: tuple[RunType, ...] = get_args(RunType)
TYPE_OF_KIND: Mapping[str, RunType] = MappingProxyType(
    {
        "train_file": "training",
        "medic_train": "training",
        "scale": "training",
        "eval": "evaluation",
        "medic_eval": "evaluation",
        "sweep": "experiment",
        "autotune": "experiment",
        "sparring": "generation",
        "data_gen": "generation",
        "retention": "audit",
        "health_check": "audit",
        "report": "audit",
    }
)


class UnknownRunTypeError(UnknownNameError):
    """No type of run of that name."""

    kind = "run type"


@dataclass(frozen=True)
class Run:
    """One run. seconds: from its start to its end, None while it has none. error: of the last failure, "" for none."""

    id: int
    type: RunType
    kind: str
    name: str
    state: str
    campaign: str | None
    started_at: str | None
    finished_at: str | None
    seconds: float | None
    attempts: int
    error: str
    result: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return dict(vars(self))


def run_type(kind: str) -> RunType:
    """The type of a kind of job. Raises UnknownKindError."""
    return TYPE_OF_KIND[kind_of(kind).name]


def runs_of(db: Database, type: str | None = None, *, campaign: str | None = None, limit: int = 100) -> list[Run]:
    """The newest runs that were started, of one type or of all. Raises UnknownRunTypeError."""
    if type is not None and type not in RUN_TYPES:
        raise UnknownRunTypeError(type, RUN_TYPES)
    kinds = [kind for kind in KINDS if type is None or run_type(kind) == type]
    found: list[Run] = []
    before: int | None = None
    while len(found) < limit:
        page = jobs.list_jobs(db, kinds=kinds, campaign=campaign, order="newest", limit=limit, before=before).jobs
        if not page:
            break
        found += [_run(job) for job in page if job.started_at is not None]
        before = page[-1].id
    return found[:limit]


def _run(job: Job) -> Run:
    seconds = None
    if job.started_at is not None and job.finished_at is not None:
        seconds = (parse_stamp(job.finished_at) - parse_stamp(job.started_at)).total_seconds()
    return Run(
        job.id, run_type(job.kind), job.kind, job.name or job.kind, job.state, job.campaign, job.started_at, job.finished_at, seconds,
        job.attempts, job.error or "", job.result,
    )  # fmt: skip
