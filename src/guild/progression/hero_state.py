"""`status/hero_state.json`: what a hero earned in its campaign. (specs/guild.md 2.3.5)

A fold over the records (`history`), made anew each time; nothing is ever added to an older state, so nothing can be counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from guild.campaigns.pointer import require_active
from guild.places import Places
from guild.progression.effect_rules import EffectRules, read_rules
from guild.progression.effects import Change, Tracker, advance, at_work, blocking, factor
from guild.progression.history import Seen, history
from guild.progression.levels import hero_level, standing
from guild.progression.results import GRADES, SUCCESSES, Grade, experience, next_streak
from guild.progression.worth import Worth, read_worth
from guild.records.checkpoint_record import CampaignId
from guild.records.status_documents import export, records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

NAME = "hero_state.json"
CHANGES = 50
"""Beginnings and ends of effects that the document lists."""


@dataclass(frozen=True)
class SkillProgress:
    """What a skill earned. experience: exact. streak: successes in a row up to now; best_streak: the longest ever."""

    experience: Fraction = Fraction(0)
    streak: int = 0
    best_streak: int = 0
    results: Counter[Grade] = field(default_factory=Counter)


@dataclass(frozen=True)
class HeroState:
    """The fold over everything seen up to `step`."""

    step: int = 0
    skills: dict[str, SkillProgress] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=Tracker)
    changes: tuple[Change, ...] = ()


def fold(rules: EffectRules, worth: Worth, observed: list[Seen]) -> HeroState:
    """The state after all observations, which come in the order of training."""
    state = HeroState()
    for seen in observed:
        state = _after(rules, worth, state, seen)
    return state


def hero_state(db: Database, places: Places, campaign: CampaignId, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """The document of a campaign. Raises ConfigError for rules, quest templates or skill files that cannot be read."""
    rules = read_rules(places)
    state = fold(rules, read_worth(places), history(db, places, campaign))
    active = [
        {
            "name": name,
            "description": rules.effects[name].description,
            "since": state.tracker.active[name].since,
            "until": state.tracker.active[name].until,
            "xp_factor": rules.effects[name].xp_factor,
        }
        for name in at_work(state.tracker, state.step)
    ]
    return {
        "hero_id": campaign.hero_id,
        "campaign_id": campaign.campaign_id,
        "steps": state.step,
        "xp": state.step,
        "level": hero_level(state.step),
        "stance": rules.stance,
        "skills": {skill: _skill_fields(progress) for skill, progress in sorted(state.skills.items())},
        "effects": active,
        "blocks_training": blocking(rules, state.tracker, state.step),
        "effect_history": [{"name": one.name, "began": one.began, "step": one.step} for one in state.changes[-CHANGES:]],
        "updated_at": stamp(clock.now()),
    }


def export_hero_state(db: Database, places: Places, campaign: CampaignId | None = None, *, clock: Clock = SYSTEM_CLOCK) -> Path:
    """Write the document of a campaign (the active one by default); returns its path. Raises NoActiveCampaignError, StorageError."""
    chosen = campaign or CampaignId(*require_active(places).key)
    path = places.status / NAME
    with records_lock(places):
        export(path, hero_state(db, places, chosen, clock=clock))
    return path


def _after(rules: EffectRules, worth: Worth, state: HeroState, seen: Seen) -> HeroState:
    observation = seen.observation
    skills = state.skills
    if seen.skill is not None:
        # what is earned now is under the effects that were at work before
        multiplier = factor(rules, state.tracker, observation.step)
        base, difficulty = worth.of(seen.skill, seen.level)
        before = skills.get(seen.skill, SkillProgress())
        skills = {**skills, seen.skill: _earned(before, seen.observation.results, base, difficulty, multiplier)}
    tracker, changes = advance(rules, state.tracker, observation)
    return HeroState(max(state.step, observation.step), skills, tracker, (*state.changes, *changes))


def _earned(progress: SkillProgress, results: Sequence[Grade], base_xp: Fraction, difficulty: int, multiplier: Fraction) -> SkillProgress:
    gained, streak, best = progress.experience, progress.streak, progress.best_streak
    for result in results:
        gained += experience(result, difficulty, streak, factor=multiplier, base_xp=base_xp)
        streak = next_streak(streak, result)
        best = max(best, streak)
    return replace(progress, experience=gained, streak=streak, best_streak=best, results=progress.results + Counter(results))


def _skill_fields(progress: SkillProgress) -> dict[str, Any]:
    place = standing(progress.experience)
    answers = sum(progress.results.values())
    return {
        "xp": round(float(progress.experience), 2),
        "level": place.level,
        "xp_into_level": round(float(place.into), 2),
        "xp_to_next_level": None if place.needed is None else round(float(place.needed - place.into), 2),
        "answers": answers,
        "accuracy": sum(progress.results[name] for name in SUCCESSES) / answers if answers else None,
        "streak": progress.streak,
        "best_streak": progress.best_streak,
        "results": {name: progress.results[name] for name in GRADES},
    }
