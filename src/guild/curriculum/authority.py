"""The one authority over generation: a job of kind `data_gen`, of which one is carried out at a time. (specs/guild.md 2.4, 10.1 no. 11)

Everybody else only requests: a round of the daemon when the queue runs low, and `guild data generate`. Whoever carries a job out, the
daemon or, where none lives, the command that asked, has taken it from the job store and holds the generation lock meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guild.campaigns.config_file import AutoGenerate, installation_config
from guild.control.daemon import daemon_liveness
from guild.curriculum.choosing import NoSourceError, active, choose, look
from guild.curriculum.generate import SOURCE, Generated, PreconditionError, run_generation, told
from guild.curriculum.preconditions import unmet_now
from guild.curriculum.progress import catch_up
from guild.curriculum.totals import Totals
from guild.places import Places, Priority
from guild.records import events, jobs
from guild.records.jobs import Job, NewJob, Submitted
from guild.records.states import TERMINAL
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import ModelwrightError, UsageError
from modelwright.files import make_folder, sha256_json
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

KIND = "data_gen"
AUTO_KEY = "data_gen:auto"
LOCK_FOLDER = "generation"
LOCK_PATIENCE_S = 120.0
WAIT_S = 600.0
_LOOK_S = 0.2


@dataclass(frozen=True)
class Carried:
    """A job that was carried out. job: as it stands now. generated: what it made, None when it made nothing. error: why, or ""."""

    job: Job
    generated: Generated | None
    error: str = ""


def request(
    db: Database, *, count: int, skill: str | None = None, level: int | None = None, seed: int | None = None,
    priority: Priority = "normal", force: bool = False, reason: str = "", auto: bool = False, clock: Clock = SYSTEM_CLOCK,
) -> Submitted:  # fmt: skip
    """Ask for a generation; the same request that is not carried out yet is not doubled. auto: the daemon's own, at most one at a time.

    Raises ConfigError with every fault, QueueFullError.
    """
    payload = {
        "skill": skill, "level": level, "count": count, "seed": seed, "priority": priority, "force": force, "reason": reason,
    }  # fmt: skip
    key = AUTO_KEY if auto else f"{KIND}:{sha256_json(payload)[:32]}"
    return jobs.submit(db, NewJob(KIND, payload, key=key), clock=clock)


def carry_out(
    db: Database, places: Places, *, settings: AutoGenerate | None = None, final: bool = False, clock: Clock = SYSTEM_CLOCK
) -> Carried | None:
    """Take the next requested generation and carry it out; None when there is none to take or another process carries one out.

    settings: `auto_generate`, that of config.json when None. final: a failure ends the job, instead of leaving it to a later attempt.
    """
    jobs.recover(db, kinds=(KIND,), clock=clock)
    me = current_identity()
    job = jobs.claim(db, me, kinds=(KIND,), clock=clock)
    if job is None:
        return None
    try:
        with _generation_lock(places):
            chosen = installation_config(places).auto_generate if settings is None else settings
            made = run_generation(db, places, job.payload, job=f"{job.id}@{job.enqueued_at}", settings=chosen, clock=clock)
    except (PreconditionError, NoSourceError) as error:
        if job.once_key == AUTO_KEY:  # things changed since it was asked for; the next round asks again
            return Carried(jobs.cancel_held(db, job.id, me, clock=clock), None, str(error))
        return Carried(jobs.reject(db, job.id, me, str(error), clock=clock), None, str(error))
    except UsageError as error:  # an unknown skill, a wrong schedule: trying again does not help
        return Carried(jobs.reject(db, job.id, me, str(error), clock=clock), None, str(error))
    except ModelwrightError as error:
        end = jobs.reject if final else jobs.fail
        return Carried(end(db, job.id, me, str(error), clock=clock), None, str(error))
    return Carried(jobs.finish(db, job.id, me, made.as_dict(), clock=clock), made)


def generation_round(
    db: Database, places: Places, *, say: Callable[[str], None] = lambda line: None, clock: Clock = SYSTEM_CLOCK
) -> Carried | None:
    """What a daemon does about data in each of its rounds; a few queries when nothing is due.

    Evaluations that a kill kept from counting are counted, a request is made when the queue runs low, and one request is carried out.
    Returns what was carried out. say: lines for people. Raises ModelwrightError for settings that cannot be used.
    """
    campaign = active(places)
    for one in catch_up(db, places, campaign, clock=clock):
        say(f"An evaluation of {one.skill} counts now; its training level is {one.training_level}.")
    settings = installation_config(places).auto_generate
    if settings.enabled and settings.count and not _pending(db):
        totals = Totals.read(places)
        if not unmet_now(db, settings, totals.last, clock.now()) and _reachable(db, places, totals, say, clock):
            request(db, count=settings.count, priority=settings.priority or "normal", reason="the queue runs low", auto=True, clock=clock)
    if not _pending(db):
        return None
    carried = carry_out(db, places, settings=settings, clock=clock)
    if carried is not None:
        made = carried.generated
        words = f"{made.file}: {made.outcome}, {made.rows} rows of {made.skill} level {made.level}." if made else carried.error
        say(words)
    return carried


def generate_now(
    db: Database, places: Places, payload: Mapping[str, Any], *, settings: AutoGenerate, wait_s: float = WAIT_S, clock: Clock = SYSTEM_CLOCK
) -> Carried:
    """Request a generation and wait for what comes of it; where no daemon lives, this process carries it out.

    payload: the arguments of `request`. Raises PreconditionError before anything is requested, ModelwrightError when nothing came of it
    within `wait_s` seconds.
    """
    totals = Totals.read(places)
    reasons = unmet_now(db, settings, totals.last, clock.now(), force=bool(payload.get("force")))
    if reasons:
        raise PreconditionError(reasons)
    choose(places, look(places, totals), skill=payload.get("skill"), level=payload.get("level"))
    wanted = request(db, **payload, clock=clock).job
    deadline = clock.monotonic() + wait_s
    while True:
        if daemon_liveness(places) == "dead":
            carried = carry_out(db, places, settings=settings, final=True, clock=clock)
            if carried is not None and carried.job.id == wanted.id:
                return carried
        now = jobs.get(db, wanted.id)
        if now.state in TERMINAL:
            return Carried(now, _told(now), now.error or "")
        if clock.monotonic() >= deadline:
            raise ModelwrightError(f"The request (job {wanted.id}) is {now.state} after {wait_s:g} s. Look at it with `guild data status`.")
        clock.sleep(_LOOK_S)


def _told(job: Job) -> Generated | None:
    """What another process made, from the job's result."""
    if job.state != "completed" or not job.result:
        return None
    return told(job.result)


def _pending(db: Database) -> bool:
    return db.row("SELECT 1 FROM jobs WHERE kind = ? AND state IN ('queued', 'running', 'paused') LIMIT 1", (KIND,)) is not None


def _reachable(db: Database, places: Places, totals: Totals, say: Callable[[str], None], clock: Clock) -> bool:
    """Whether a scheduled skill answers; one that stops answering, and one that answers again, is told of once."""
    try:
        choice = choose(places, look(places, totals))
        down, up = choice.down, choice.skill.id
    except NoSourceError as error:
        down, up = error.down, ""
    known: dict[str, str] = totals.content.get("api_down", {})
    stopped, again = [skill for skill in down if skill not in known], up in known
    for skill in stopped:
        say(down[skill])
        events.record(db, "service.skill_down", down[skill], source=SOURCE, severity="warning", data={"skill": skill}, clock=clock)
    if again:
        events.record(db, "service.skill_up", f"The source of {up} answers again.", source=SOURCE, data={"skill": up}, clock=clock)
    if stopped or again:
        with _generation_lock(places):
            now = Totals.read(places)
            now.content["api_down"] = {skill: why for skill, why in {**known, **down}.items() if skill != up}
            now.write()
    return bool(up)


@contextlib.contextmanager
def _generation_lock(places: Places) -> Iterator[None]:
    lock = WriterLock(make_folder(places.pids / LOCK_FOLDER), command=("guild", "data", "generate"), patience_s=LOCK_PATIENCE_S)
    try:
        yield
    finally:
        lock.release()
