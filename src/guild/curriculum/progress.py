"""Levels go up: evaluations meet the rule, the state is written, people are told. (specs/guild.md 6.3, 4.8)

The document is written before the event `hero.level_up`; a kill in between leaves an entry marked `announced: false`, which the next
look announces, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from guild.curriculum import rule as rules
from guild.curriculum.rule import Considered, Measured, Rule, Standing
from guild.curriculum.settings import SkillSettings, known_skills, skill_settings
from guild.curriculum.state import HISTORY, CurriculumDocument, changing, read_state, share
from guild.errors import RefusedError
from guild.places import Places
from guild.records import events
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.records.evaluation_records import Evaluation
from guild.records.evaluations import evaluations_of
from guild.records.intervals import wilson
from guild.skills.names import canonical
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import ConfigError, Fault

SOURCE = "curriculum"
LEVEL_UP = "hero.level_up"


@dataclass(frozen=True)
class Registered:
    """What an evaluation did to a skill. reason: why it did not count, or "". mastered, training_level: now."""

    skill: str
    counted: bool
    advanced: bool
    mastered: int
    training_level: int
    reason: str = ""


def rule_of(places: Places, skill: str) -> Rule:
    """The rule of a skill, with what `schedule.yaml` and `config.json` say where its file does not. Raises like `settings_of`."""
    return settings_of(places, skill).rule


def settings_of(places: Places, skill: str) -> SkillSettings:
    """A skill's settings in this installation. Raises UnknownSkillError, ConfigError, DamagedFileError, LoadError."""
    from guild.campaigns.config_file import installation_config
    from guild.curriculum.schedule import read_settings

    return skill_settings(
        places,
        skill,
        min_evals=read_settings(places).advancement_evals,
        target_accuracy=installation_config(places).curriculum.target_accuracy,
    )


def training_level(places: Places, skill: str, campaign: CampaignId = NO_CAMPAIGN) -> int:
    """The level at which a skill trains and is evaluated in a campaign."""
    rule = rule_of(places, skill)
    return rule.training_level(read_state(places, campaign).standing(canonical(skill)).mastered)


def register_evaluation(db: Database, places: Places, evaluation: Evaluation, *, clock: Clock = SYSTEM_CLOCK) -> Registered:
    """Count an evaluation that was just stored, and advance the skill when that is due. The same one twice counts once.

    One of a level that has fewer than 20 held-out problems (`available`) needs all of them.
    """
    rule = _needing(rule_of(places, evaluation.skill), evaluation)
    with changing(places, evaluation.campaign, clock=clock) as document:
        result = _count(document, evaluation, rule, clock)
    if result.advanced:
        announce(db, places, evaluation.campaign, clock=clock)
    return result


def catch_up(db: Database, places: Places, campaign: CampaignId, *, clock: Clock = SYSTEM_CLOCK) -> list[Registered]:
    """Count stored evaluations that a kill kept from being registered, and announce levels that were not; returns those that count now.

    An evaluation from before its level began does not count: it was not made at the training level. The export of the active campaign's
    state is brought up to date. Writes nothing when all is well.
    """
    done: list[Registered] = []
    for skill in (row["skill"] for row in db.rows("SELECT DISTINCT skill FROM evaluations ORDER BY skill")):
        waiting = _uncounted(db, read_state(places, campaign), campaign, skill)
        if not waiting or skill not in known_skills(places):
            continue
        rule = rule_of(places, skill)
        with changing(places, campaign, clock=clock) as document:
            for one in waiting:
                needing = _needing(rule, one)
                if not rules.why_not(document.standing(skill), _measured(one), needing):
                    done.append(_count(document, one, needing, clock))
    announce(db, places, campaign, clock=clock)
    share(places, campaign)
    return done


def announce(db: Database, places: Places, campaign: CampaignId, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Tell of every level that was mastered and not told of yet; returns how many events were added."""
    if not any(_untold(read_state(places, campaign))):
        return 0
    told = 0
    with changing(places, campaign, clock=clock) as document:
        for skill, number, entry in _untold(document):
            data = {"campaign": campaign.key, "skill": skill, **{key: value for key, value in entry.items() if key != "announced"}}
            if not _is_told(db, data):
                level, now = entry["earned_level"], entry["new_mastered"]
                text = f"{skill}: level {level} is mastered (a level up); {now} levels are."
                events.record(db, LEVEL_UP, text, source=SOURCE, severity="success", data=data, durable=True, clock=clock)
                told += 1
            fields = document.entry(skill)
            history = [dict(one) for one in fields["progression_history"]]
            history[number]["announced"] = True
            document.put(skill, document.standing(skill), progression_history=history)
    return told


def advance_now(db: Database, places: Places, skill: str, campaign: CampaignId = NO_CAMPAIGN, *, clock: Clock = SYSTEM_CLOCK) -> Registered:
    """Advance a skill by one level when its evidence suffices, for example after a threshold was lowered. Raises RefusedError."""
    name, rule = canonical(skill), rule_of(places, skill)
    with changing(places, campaign, clock=clock) as document:
        found = rules.progress(document.standing(name), rule)
        if not found.advanced:
            raise RefusedError(f"{name} stays at level {rule.training_level(found.standing.mastered)}. {found.reason}")
        _write(document, name, found, clock)
    announce(db, places, campaign, clock=clock)
    return _registered(name, found, rule)


def set_mastered(
    places: Places, skill: str, mastered: int, campaign: CampaignId = NO_CAMPAIGN, *, reason: str = "", clock: Clock = SYSTEM_CLOCK
) -> Registered:
    """An operator's word on what is mastered, up or down; evidence begins anew. Raises ConfigError outside 0 to the last level."""
    name, rule = canonical(skill), rule_of(places, skill)
    if not 0 <= mastered <= rule.max_level:
        raise ConfigError([Fault("level", str(mastered), f"a whole number from 0 (none mastered) to {rule.max_level}")])
    with changing(places, campaign, clock=clock) as document:
        before = document.standing(name)
        now = Standing(mastered, (), before.counted)
        entry = {"earned_level": mastered, "old_mastered": before.mastered, "new_mastered": mastered, "timestamp": stamp(clock.now())}
        told = {**entry, "by": "operator", "reason": reason, "announced": True}
        document.put(name, now, progression_history=[*document.entry(name).get("progression_history", []), told])
    return Registered(name, False, False, mastered, rule.training_level(mastered))


def _uncounted(db: Database, state: CurriculumDocument, campaign: CampaignId, skill: str) -> list[Evaluation]:
    """Stored evaluations that probably count, found without reading any settings: nearly always none."""
    standing, since = state.standing(skill), _level_began(state, skill)
    return [
        one
        for one in evaluations_of(db, campaign, skill=skill, level=standing.mastered + 1)
        if since <= one.timestamp and one.total >= _needed(rules.MIN_PROBLEMS, one) and _measured(one).checkpoint not in standing.counted
    ]


def _needing(rule: Rule, evaluation: Evaluation) -> Rule:
    """The rule for the level of an evaluation, which may have fewer problems than others."""
    return replace(rule, min_problems=_needed(rule.min_problems, evaluation))


def _needed(usually: int, evaluation: Evaluation) -> int:
    return usually if evaluation.available is None else min(usually, evaluation.available)


def _count(document: CurriculumDocument, evaluation: Evaluation, rule: Rule, clock: Clock) -> Registered:
    before = document.standing(evaluation.skill)
    found = rules.consider(before, _measured(evaluation), rule)
    if found.counted:
        history = [*document.entry(evaluation.skill).get("accuracy_history", []), _history_entry(evaluation, before, rule)]
        _write(document, evaluation.skill, found, clock, accuracy_history=history[-HISTORY:])
    return _registered(evaluation.skill, found, rule)


def _write(document: CurriculumDocument, skill: str, found: Considered, clock: Clock, **news: Any) -> None:
    if found.advanced:
        level = found.standing.mastered
        share = sum((one.share for one in found.evidence), start=Fraction(0)) / len(found.evidence)
        entry = {
            "earned_level": level,
            "old_mastered": level - 1,
            "new_mastered": level,
            "timestamp": stamp(clock.now()),
            "mean": float(share),
            "evidence": [vars(one) for one in found.evidence],
            "announced": False,
        }
        news["progression_history"] = [*document.entry(skill).get("progression_history", []), entry]
    document.put(skill, found.standing, **news)


def _history_entry(evaluation: Evaluation, before: Standing, rule: Rule) -> dict[str, Any]:
    interval = wilson(evaluation.correct, evaluation.total)
    return {
        "step": evaluation.checkpoint_step,
        "accuracy": evaluation.accuracy,
        "training_level": rule.training_level(before.mastered),
        "mastered_level": before.mastered,
        "timestamp": evaluation.timestamp,
        "metadata": {
            "level": evaluation.level,
            "problems": evaluation.total,
            "correct": evaluation.correct,
            "model": f"{evaluation.campaign.key}:{evaluation.checkpoint_step}",
            "interval_low": interval.low,
            "interval_high": interval.high,
            "eval_type": evaluation.eval_type,
        },
    }


def _measured(evaluation: Evaluation) -> Measured:
    checkpoint = f"{evaluation.campaign.key}:{evaluation.checkpoint_step}"
    return Measured(checkpoint, evaluation.level, evaluation.correct, evaluation.total)


def _registered(skill: str, found: Considered, rule: Rule) -> Registered:
    mastered = found.standing.mastered
    return Registered(skill, found.counted, found.advanced, mastered, rule.training_level(mastered), found.reason)


def _level_began(document: CurriculumDocument, skill: str) -> str:
    """When the training level began, "" for always."""
    history = document.entry(skill).get("progression_history", [])
    return str(history[-1].get("timestamp", "")) if history else ""


def _untold(document: CurriculumDocument) -> list[tuple[str, int, dict[str, Any]]]:
    """(skill, index, entry) of levels that were mastered and not told of; the original's entries have no such mark."""
    return [
        (skill, number, entry)
        for skill in document.skills
        for number, entry in enumerate(document.entry(skill).get("progression_history", []))
        if entry.get("announced") is False
    ]


def _is_told(db: Database, data: dict[str, Any]) -> bool:
    import orjson

    rows = db.rows("SELECT data FROM events WHERE type = ?", (LEVEL_UP,))
    return any(orjson.loads(row["data"]) == data for row in rows)
