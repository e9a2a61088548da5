"""One evaluation job from its problems to the stored result. (specs/guild.md 2.1.9, 6.3)

A full evaluation without a level asks every level up to the training level, each stored when it is done; the job's position says how many
are, so that a restarted one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from guild.curriculum.progress import register_evaluation, training_level
from guild.evaluation.answerers import Answerer
from guild.evaluation.measuring import Asked, Measured, Question, answer_limit, measure
from guild.evaluation.passives import passive_module
from guild.evaluation.questions import FULL_PROBLEMS, QUICK_PROBLEMS, skill_questions
from guild.evaluation.subject import Subject
from guild.places import Places
from guild.records import events
from guild.records.evaluation_records import Counted, PassiveMode, new_evaluation, new_passive
from guild.records.evaluations import record_evaluation
from guild.records.jobs import Job
from guild.records.passives import record_passive
from guild.skills.contract import Skill
from guild.skills.registry import load_skill
from modelwright.clock import Clock, stamp
from modelwright.database import Database
from modelwright.errors import ModelwrightError

SOURCE = "evaluation"
CHUNK = 16
"""Questions between two looks at whether the work is still wanted."""


class StoppedError(Exception):
    """The work is to be laid down: not a fault. `position`: parts of the job that are stored."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(position)


@dataclass(frozen=True)
class Setting:
    """What a job is carried out with. beat: called between chunks with the parts that are stored, False to stop. max_new_tokens: of an
    answer."""

    db: Database
    places: Places
    clock: Clock
    beat: Callable[[int | None], bool]
    max_new_tokens: int


@dataclass(frozen=True)
class Stored:
    """One stored result: of `skill` at `level`, or of a passive. counts: it is the one that counts for its key. levelled: what the
    curriculum made of it, a sentence, or ""."""

    name: str
    level: int | None
    correct: int
    total: int
    unanswered: int
    counts: bool
    levelled: str = ""

    @property
    def line(self) -> str:
        """For people."""
        where = self.name if self.level is None else f"{self.name} level {self.level}"
        more = f", {self.unanswered} without a result" if self.unanswered else ""
        return f"{where}: {self.correct} of {self.total} right{more}{f'. {self.levelled}' if self.levelled else ''}"


def carry_out(setting: Setting, job: Job, subject: Subject, answerer: Answerer) -> list[Stored]:
    """Ask, judge and store everything that a job asks for.

    Raises StoppedError, NoResultError, UnknownSkillError and UnknownPassiveError, UsageError for a level outside the skill, and what
    loading the model raises.
    """
    if job.payload.get("passive"):
        return [_passive(setting, job, subject, answerer)]
    skill = load_skill(job.payload["skill"], folder=setting.places.skills)
    levels = list(_levels(setting, job, subject, skill))
    stored = []
    for at, level in enumerate(levels):
        if at < job.position:
            continue
        stored.append(_skill(setting, job, subject, answerer, skill, level, at))
        if not setting.beat(at + 1) and at + 1 < len(levels):
            raise StoppedError(at + 1)
    return stored


def _levels(setting: Setting, job: Job, subject: Subject, skill: Skill) -> Iterator[int]:
    named = job.payload.get("level")
    if named is not None:
        yield int(named)
        return
    now = training_level(setting.places, skill.id, subject.campaign)
    yield from range(1, now + 1) if job.payload["suite"] == "full" else (now,)


def _skill(setting: Setting, job: Job, subject: Subject, answerer: Answerer, skill: Skill, level: int, at: int) -> Stored:
    payload = job.payload
    wanted = payload.get("problems") or (FULL_PROBLEMS if payload["suite"] == "full" else QUICK_PROBLEMS)
    questions = skill_questions(skill, level, wanted, payload["seed"])
    measured = _measure(setting, subject, answerer, questions, at).checked()
    evaluation = new_evaluation(
        subject.campaign,
        subject.step,
        skill.id,
        level,
        correct=measured.correct,
        total=measured.total,
        timestamp=stamp(setting.clock.now()),
        validation_type="dynamic" if payload["seed"] else "static",
        eval_type=payload["suite"],
        problems=[one.as_dict() for one in measured.asked],
        judge=f"{skill.id}@{skill.version}",
        available=len(questions) if len(questions) < QUICK_PROBLEMS else None,
        **_about(job, subject, answerer, measured),
    )
    counts = record_evaluation(setting.db, setting.places, evaluation)
    levelled = ""
    try:
        found = register_evaluation(setting.db, setting.places, evaluation, clock=setting.clock)
        levelled = f"Level {found.mastered} is mastered" if found.advanced else ""
    except ModelwrightError as error:  # the result is stored; the curriculum catches up once its document is mended
        _tell(setting, job, "hero.curriculum_failed", str(error), "error")
    stored = Stored(skill.id, level, measured.correct, measured.total, measured.unanswered, counts, levelled)
    _tell_result(setting, job, subject, stored, evaluation)
    return stored


def _passive(setting: Setting, job: Job, subject: Subject, answerer: Answerer) -> Stored:
    module = passive_module(job.payload["passive"])
    mode: PassiveMode = "full" if job.payload.get("mode") == "full" else "lite"
    measured = _measure(setting, subject, answerer, module.questions(mode), 0).checked()
    passive = new_passive(
        subject.campaign,
        subject.step,
        module.id,
        mode,
        module.version,
        correct=measured.correct,
        total=measured.total,
        timestamp=stamp(setting.clock.now()),
        config_hash=module.config_hash,
        problems=[one.as_dict() for one in measured.asked],
        **_about(job, subject, answerer, measured),
    )
    counts = record_passive(setting.db, setting.places, passive)
    stored = Stored(f"{module.id} ({mode})", None, measured.correct, measured.total, measured.unanswered, counts)
    _tell_result(setting, job, subject, stored, passive)
    return stored


def _measure(setting: Setting, subject: Subject, answerer: Answerer, questions: list[Question], at: int) -> Measured:
    asked: list[Asked] = []
    limit = answer_limit(answerer, questions, setting.max_new_tokens)
    for begin in range(0, len(questions), CHUNK):
        if not setting.beat(None):
            raise StoppedError(at)
        some = questions[begin : begin + CHUNK]
        asked += measure(answerer, some, profile=subject.profile, max_new_tokens=limit, scored=True).asked
    return Measured(tuple(asked))


def _about(job: Job, subject: Subject, answerer: Answerer, measured: Measured) -> dict[str, Any]:
    """What is kept with a result, so that it can be made again."""
    return {
        "checkpoint": subject.name,
        "job": job.id,
        "seed": job.payload["seed"],
        "profile": subject.profile,
        "prompt_date": subject.day.isoformat(),
        "system_prompt": answerer.system_prompt,
        "chat_template": getattr(answerer, "template_note", "") or "the model's own",
        "unanswered": measured.unanswered,
        "seconds": round(measured.seconds, 3),
        "mean_confidence": measured.mean_confidence,
        "mean_loss": measured.mean_loss,
    }


def _tell_result(setting: Setting, job: Job, subject: Subject, stored: Stored, result: Counted) -> None:
    told = {
        "campaign": subject.campaign.key, "step": subject.step, "name": stored.name, "level": stored.level, "accuracy": result.accuracy,
        "correct": result.correct, "total": result.total,
    }  # fmt: skip
    _tell(setting, job, "training.evaluated", f"Step {subject.step}: {stored.line}.", "info", **told)


def _tell(setting: Setting, job: Job, type: str, message: str, severity: events.Severity, **data: Any) -> None:
    events.record(setting.db, type, message, source=SOURCE, severity=severity, job=job.id, data=data, clock=setting.clock)
