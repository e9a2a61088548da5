"""A whole session: choose, ask, judge, save, queue, tell. (specs/guild.md 6.4)

    result = run_sparring(places, {"skill": "bin", "count": 100})

A session that belongs to a job is done once: when its worker was killed after the rows were saved, the next one queues those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from guild.correction import files
from guild.correction.asked import Partner, find_partner
from guild.correction.rows import GENERATOR, SessionMark, fresh_problems, rows_of
from guild.correction.session import Outcome, Progress, ask
from guild.correction.staleness import LOWEST, Origin, active_campaign_id, is_stale
from guild.correction.status import note_session, total_sessions
from guild.curriculum.progress import training_level
from guild.evaluation.api import ApiAnswerer, ApiError, api_key
from guild.evaluation.measuring import NoResultError
from guild.places import Places, Priority
from guild.records import events
from guild.records.data_sidecars import DataSidecar
from guild.records.database import open_guild
from guild.records.kinds import kind_of
from guild.skills.registry import load_skill
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import ModelwrightError

KIND = "sparring"
PARALLEL = 4
"""Requests at a time."""


@dataclass(frozen=True)
class Result:
    """What a session gave. rounds: answers that were judged. rows: three for each wrong one. file: where they are saved, None without any.
    queued: the level in which the file waits, None when it does not. stale: training was further already when the session ended, so the
    file waits in `low`. outcome: of the quality checks, None without rows."""

    skill: str
    level: int
    checkpoint: str
    model: str
    rounds: int
    correct: int
    incorrect: int
    unanswered: int
    accuracy: float | None
    rows: int
    file: str | None = None
    queued: Priority | None = None
    job: int | None = None
    stale: bool = False
    outcome: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, which is also the result of a job."""
        return {"schema_version": 1, **asdict(self)}


def run_sparring(
    places: Places,
    payload: Mapping[str, Any],
    *,
    db: Database | None = None,
    job: int | None = None,
    url: str | None = None,
    enqueue: bool = True,
    progress: Progress | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Result:
    """Hold one session. payload: that of a job of kind `sparring` (`guild.records.payloads.Sparring`). db: opened when not given. job: the
    id of that job. url: the inference host's, instead of the registry's. enqueue: False saves the rows alone. progress: called after every
    round of questions, for a heartbeat.

    Raises ConfigError (payload), UnknownSkillError, UsageError (a level that the skill does not have), ApiError (a host that does not
    answer), NoResultError (more than a fifth of the questions without a result), RejectedRowsError, StorageError. Nothing is queued then.
    """
    checked = kind_of(KIND).check(payload)
    if db is not None:
        return _run(db, places, checked, job, url, enqueue, progress, clock)
    with open_guild(places) as opened:
        return _run(opened, places, checked, job, url, enqueue, progress, clock)


def _run(
    db: Database, places: Places, payload: Mapping[str, Any], job: int | None, url: str | None, enqueue: bool, progress: Progress | None,
    clock: Clock,
) -> Result:  # fmt: skip
    found = None if job is None else files.saved_by(places, job)
    if found is not None:
        return _finish(db, places, payload, _told_by(found[1]), found[1], found[0].name, enqueue, clock)
    skill = load_skill(payload["skill"], folder=places.skills)
    level = payload["level"] or training_level(places, skill.id, active_campaign_id(places))
    count = payload["count"]
    skill.level_info(level)  # what is asked for wrongly is said before anybody is asked
    try:
        partner = find_partner(db, places, url=url, model=payload["model"], checkpoint=payload["checkpoint"], clock=clock)
        mark = SessionMark(skill.id, level, partner.checkpoint, stamp(clock.now()))
        seed = payload["seed"]
        if seed is None:
            seed = derived_seed(skill.id, level, partner.checkpoint, total_sessions(places))
        answerer = ApiAnswerer(partner.url, partner.model, partner.system_prompt, api_key(), parallel=PARALLEL, clock=clock)
        outcome = ask(answerer, skill, skill.generate(level, count, seed), profile=partner.profile, progress=progress)
    except (ApiError, NoResultError) as error:
        _tell_failure(db, skill.id, level, job, error, clock)
        raise
    fresh = fresh_problems(skill, level, outcome.wrong, outcome.asked, derived_seed("fresh", seed))
    rows = rows_of(outcome.wrong, fresh, mark)
    facts = _facts(partner, outcome, count, seed, job)
    if not rows:
        result = _result(mark, facts, 0)
        _tell(db, places, mark, facts, result, clock)
        return result
    path, _ = files.save(places, rows, mark, facts, clock=clock)
    sidecar = files.read_data_sidecar(path)
    assert sidecar is not None  # it was written just now
    return _finish(db, places, payload, mark, sidecar, path.name, enqueue, clock)


def derived_seed(*parts: object) -> int:
    """A seed from named parts, the same on every machine; it fits into 48 bits."""
    text = "\x1f".join(str(part) for part in ("sparring", *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _finish(
    db: Database,
    places: Places,
    payload: Mapping[str, Any],
    mark: SessionMark,
    sidecar: DataSidecar,
    name: str,
    enqueue: bool,
    clock: Clock,
) -> Result:
    """Queue what was saved, and tell; done again after a kill it changes nothing more."""
    path = places.sparring_data / name
    result = _result(mark, sidecar.params, sidecar.example_count, file=str(path), outcome=sidecar.extra["quality"]["outcome"])
    if enqueue:
        active = active_campaign_id(places)
        stale = is_stale(db, Origin(mark.checkpoint, sidecar.params.get("step"), mark.timestamp), active)
        queued = files.queue(db, places, path, mark, LOWEST if stale else payload["priority"], clock=clock)
        result = replace(result, queued=queued.level, job=queued.id, stale=stale)
    _tell(db, places, mark, sidecar.params, result, clock)
    return result


def _facts(partner: Partner, outcome: Outcome, count: int, seed: int, job: int | None) -> dict[str, Any]:
    """What the sidecar keeps of a session beside its mark; enough to go on after a kill."""
    return {
        "campaign": partner.campaign.key,
        "model": partner.model,
        "step": partner.step,
        "profile": partner.profile,
        "system_prompt": partner.system_prompt,
        "count": count,
        "seed": seed,
        "correct": outcome.correct,
        "incorrect": len(outcome.wrong),
        "unanswered": outcome.unanswered,
        "accuracy": outcome.accuracy,
        "seconds": round(outcome.seconds, 3),
        "job": job,
    }


def _told_by(sidecar: DataSidecar) -> SessionMark:
    told = sidecar.params
    return SessionMark(told["skill"], told["level"], told["session_checkpoint"], told["session_timestamp"])


def _result(mark: SessionMark, facts: Mapping[str, Any], rows: int, *, file: str | None = None, outcome: str | None = None) -> Result:
    return Result(
        mark.skill, mark.level, mark.checkpoint, facts["model"], facts["correct"] + facts["incorrect"], facts["correct"],
        facts["incorrect"], facts["unanswered"], facts["accuracy"], rows, file, outcome=outcome,
    )  # fmt: skip


def _tell(db: Database, places: Places, mark: SessionMark, facts: Mapping[str, Any], result: Result, clock: Clock) -> None:
    """Status document and event, once for a session."""
    session = {
        "id": uuid4().hex if result.file is None else Path(result.file).name,
        "timestamp": mark.timestamp,
        "checkpoint": mark.checkpoint,
        "skill": mark.skill,
        "level": mark.level,
        "total_rounds": result.rounds,
        "correct": result.correct,
        "incorrect": result.incorrect,
        "unanswered": result.unanswered,
        "accuracy": result.accuracy,
        "training_examples": result.rows,
        "file": result.file,
    }
    if not note_session(places, session, clock=clock):
        return  # by the worker that was killed
    text = f"{mark.checkpoint} gave {result.incorrect} wrong answers of {result.rounds} at {mark.skill} level {mark.level}: "
    text += f"{result.rows} correction rows (sparring)."
    events.record(db, "data.sparring", text, source=GENERATOR, data=result.as_dict(), job=facts["job"], clock=clock)


def _tell_failure(db: Database, skill: str, level: int, job: int | None, error: ModelwrightError, clock: Clock) -> None:
    text = f"A session at {skill} level {level} was given up, nothing is queued. {error}"
    events.record(
        db, "data.sparring_failed", text, source=GENERATOR, severity="error", data={"skill": skill, "level": level}, job=job, clock=clock
    )
