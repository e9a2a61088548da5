"""One generation, from the choice of the skill to a file in the queue. (specs/guild.md 2.4)

It is called by `guild.curriculum.authority` alone, with the job that asked for it. A kill at any moment leaves a plan that the next
attempt of the same job finishes: the same seed, the same file name, and a file that is queued already is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guild.campaigns.config_file import AutoGenerate
from guild.curriculum.choosing import Choice, Plans, choose, look
from guild.curriculum.files import clear_landed, clear_staged, free_name, move, stage, was_queued
from guild.curriculum.preconditions import unmet_now
from guild.curriculum.quality import Outcome, QualityVerdict, check_quality, quality_profile
from guild.curriculum.reports import read_report, write_report
from guild.curriculum.rows import SCHEMA_ID, rows_of
from guild.curriculum.sources import MOST_PER_REQUEST, SourceInfo
from guild.curriculum.state import changing
from guild.curriculum.totals import Plan, Totals, default_seed
from guild.errors import RefusedError
from guild.places import Places, Priority
from guild.queue.add import add_file
from guild.queue.folders import make_folders
from guild.records import events, jobs
from guild.records.lineage import record_validation
from guild.validation.validate import validate_file
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

SOURCE = "data_manager"


class PreconditionError(RefusedError):
    """Data may not be generated now. `reasons`: one sentence each."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(reasons))


@dataclass(frozen=True)
class Generated:
    """What came of a generation. job: of the queued file, None for rejected rows. warnings: checks that failed, and skills whose API did
    not answer, one sentence each. path: where the file lay last, below the base directory."""

    outcome: Outcome
    skill: str
    level: int
    rows: int
    seed: int
    file: str
    path: str
    score: float
    job: int | None
    warnings: tuple[str, ...] = ()

    @property
    def queued(self) -> bool:
        """Whether the rows wait to be trained."""
        return self.outcome != "REJECTED"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, the result of the job."""
        return {**asdict(self), "warnings": list(self.warnings)}


def told(result: Mapping[str, Any]) -> Generated:
    """A generation from its JSON form."""
    fields = {name: result[name] for name in Generated.__dataclass_fields__}
    return Generated(**{**fields, "warnings": tuple(fields["warnings"])})


def run_generation(
    db: Database, places: Places, payload: Mapping[str, Any], *, job: str, settings: AutoGenerate, clock: Clock = SYSTEM_CLOCK
) -> Generated:
    """Carry out one `data_gen` job. job: a text that no other job has, by which an attempt that was killed is finished. settings:
    `auto_generate`.

    The caller holds the generation lock. Raises PreconditionError, NoSourceError (no skill answers), SkillApiError (it stopped answering),
    UnknownSkillError, ConfigError, RefusedError, StorageError; nothing is queued then.
    """
    totals = Totals.read(places)
    ended = totals.result_of(job)
    if ended is not None:
        return told(ended)
    plans = look(places, totals)
    plan = totals.plan_of(job)
    if plan is not None:
        clear_landed(db, places, plan.file)
    if plan is not None and was_queued(db, plan.file):
        clear_staged(places)
        result = _finished(db, totals, plan, plans.preset_key, clock)
        _tell(db, result, clock)
        return result
    if plan is None:
        reasons = unmet_now(db, settings, totals.last, clock.now(), force=bool(payload.get("force")))
        if reasons:
            raise PreconditionError(reasons)
        choice = choose(places, plans, skill=payload.get("skill"), level=payload.get("level"))
        plan = _plan(db, places, totals, choice, payload, job, clock)
    else:
        choice = choose(places, plans, skill=plan.skill, level=plan.level)
    result = _make(db, places, totals, plans, plan, choice, clock)
    _tell(db, result, clock)
    return result


def _plan(
    db: Database, places: Places, totals: Totals, choice: Choice, payload: Mapping[str, Any], job: str, clock: Clock
) -> Plan:  # fmt: skip
    count = int(payload["count"])
    if not 1 <= count <= MOST_PER_REQUEST:
        raise RefusedError(f"count: found {count}; allowed: 1 to {MOST_PER_REQUEST} rows in a file.")
    quality_profile(choice.skill.id, choice.skill.quality)  # before anything is made for a skill that nobody could judge
    skill, seed = choice.skill.id, payload.get("seed")
    number = totals.next_number(skill, choice.level) if seed is None else 0
    plan = Plan(
        job=job,
        skill=skill,
        level=choice.level,
        count=count,
        seed=default_seed(skill, choice.level, number) if seed is None else int(seed),
        number=number,
        priority=str(payload.get("priority") or "normal"),
        file=free_name(db, places, skill, choice.level, count, clock),
        begun=stamp(clock.now()),
    )
    totals.note(plan)
    return plan


def _make(db: Database, places: Places, totals: Totals, plans: Plans, plan: Plan, choice: Choice, clock: Clock) -> Generated:
    inbox = places.inbox / plan.file
    warnings = list(choice.down.values())
    batch = choice.source.generate(plan.level, plan.count, plan.seed)
    rows = rows_of(batch, choice.info, plan.level)
    verdict = check_quality(rows, quality_profile(plan.skill, choice.skill.quality))
    staged = stage(places, plan, choice.info, rows, clock)
    report = validate_file(staged, "quick", schema=SCHEMA_ID)
    record_validation(db, places, report, staged, clock=clock)
    outcome: Outcome = verdict.outcome if report.valid else "REJECTED"
    write_report(places, plan, _with_outcome(verdict, outcome), tuple(report.errors), clock)
    warnings += [f"quality check {one.name}: {one.detail}" for one in verdict.failed] + list(report.errors[:5])
    queue_job = None
    if outcome == "REJECTED":
        final = places.rejected / plan.file
        move(staged, final)
    else:
        move(staged, inbox)
        final, queue_job = _queue(db, places, plan, choice.info, len(rows), clock)
    with changing(places, plans.campaign, clock=clock) as state:
        if state.active_skill != plan.skill:
            state.content["active_skill"] = plan.skill
    result = Generated(
        outcome=outcome,
        skill=plan.skill,
        level=plan.level,
        rows=len(rows),
        seed=plan.seed,
        file=plan.file,
        path=str(final.relative_to(places.base)),
        score=verdict.score,
        job=queue_job,
        warnings=tuple(warnings),
    )
    totals.close(plan, outcome, verdict.score, result.as_dict(), plans.preset_key, clock)
    return result


def _queue(db: Database, places: Places, plan: Plan, info: SourceInfo, rows: int, clock: Clock) -> tuple[Path, int]:
    """From the inbox into its level. A program that takes in the inbox may have been faster, which is as good."""
    make_folders(places)
    facts = {
        "schema_id": SCHEMA_ID,
        "rows": rows,
        "skill": plan.skill,
        "level": plan.level,
        "generator": f"{info.generator_id}@{info.generator_version}",
        "reason": f"generated by job {plan.job}",
    }
    priority: Priority = plan.priority  # type: ignore[assignment]  # the payload's model allowed no other
    try:
        queued = add_file(db, places, places.inbox / plan.file, priority=priority, validate=False, facts=facts, clock=clock)
    except RefusedError:
        if not was_queued(db, plan.file):
            raise
        queued = jobs.find_file(db, plan.file)
    return places.level(queued.level) / plan.file, queued.id


def _finished(db: Database, totals: Totals, plan: Plan, preset: str, clock: Clock) -> Generated:
    """A generation whose file is in the queue already: only the counting was lost."""
    report = read_report(totals.places, plan.file)
    outcome: Outcome = "CONDITIONAL" if report.get("outcome") == "CONDITIONAL" else "APPROVED"
    score = float(report.get("score", 1.0))
    job = jobs.find_file(db, plan.file)
    path = f"queue/{job.level}/{plan.file}"
    result = Generated(outcome, plan.skill, plan.level, plan.count, plan.seed, plan.file, path, score, job.id)
    totals.close(plan, outcome, score, result.as_dict(), preset, clock)
    return result


def _with_outcome(verdict: QualityVerdict, outcome: Outcome) -> QualityVerdict:
    return QualityVerdict(outcome, verdict.checks, verdict.profile, verdict.rows)


def _tell(db: Database, result: Generated, clock: Clock) -> None:
    what = f"{result.rows} rows of {result.skill} level {result.level} ({result.outcome}, quality {result.score:.0%})"
    if result.queued:
        warned = result.outcome == "CONDITIONAL"
        text = f"{what} wait as {result.file}."
        kind, severity = "data.generated", "warning" if warned else "success"
    else:
        text = f"{what} are rejected and lie in {result.path}. {' '.join(result.warnings)}"
        kind, severity = "data.rejected", "error"
    events.record(
        db, kind, text, source=SOURCE, severity=severity, data=result.as_dict(), durable=True, clock=clock  # type: ignore[arg-type]
    )  # fmt: skip
