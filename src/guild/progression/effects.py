"""Effects: timed modifiers that begin and end with what is observed. Pure functions over values. (specs/guild.md 2.3.5)

An effect begins when its trigger holds, it is not at work and its cooldown is over. With `steps` it ends after so many; without, when its
trigger no longer holds. While several are at work their factors multiply.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from guild.progression.effect_rules import EffectRule, EffectRules
from guild.progression.results import Grade

Active = Mapping[str, "Running"]
WINDOW_MOST = 10_000
"""Values of any kind that are remembered."""


@dataclass(frozen=True)
class Observation:
    """What was seen at a step, in the order of training. train_loss, val_loss: None when unknown, NaN or infinite when they were.
    results, replies: of the answers of an evaluation, in their order. level_up: whether a skill mastered a level."""

    step: int
    train_loss: float | None = None
    val_loss: float | None = None
    results: tuple[Grade, ...] = ()
    replies: tuple[str, ...] = ()
    level_up: bool = False


@dataclass(frozen=True)
class Running:
    """An effect at work. until: the step at which it ends, None while its cause lasts."""

    since: int
    until: int | None


@dataclass(frozen=True)
class Tracker:
    """What the triggers need of the past. ended: when each effect last ended."""

    gaps: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    results: tuple[Grade, ...] = ()
    replies: tuple[str, ...] = ()
    finite: bool = True
    active: Mapping[str, Running] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """An effect that began or ended at a step."""

    name: str
    began: bool
    step: int


def advance(rules: EffectRules, tracker: Tracker, seen: Observation) -> tuple[Tracker, list[Change]]:
    """The state after an observation, and what changed by it. Observations come in the order of their steps."""
    now = _remembered(tracker, seen)
    changes: list[Change] = []
    for name, rule in rules.effects.items():
        holds = _holds(rule, now, seen)
        if name in now.active:
            end = _end(rule, now.active[name], seen.step, holds)
            if end is None:
                continue
            active = {other: running for other, running in now.active.items() if other != name}
            now = replace(now, active=active, ended={**now.ended, name: end})
            changes.append(Change(name, False, end))
        if holds and _rested(rule, now.ended.get(name), seen.step):
            until = None if rule.steps is None else seen.step + rule.steps
            now = replace(now, active={**now.active, name: Running(seen.step, until)})
            changes.append(Change(name, True, seen.step))
    return now, changes


def factor(rules: EffectRules, tracker: Tracker, step: int) -> Fraction:
    """What experience at a step is multiplied by."""
    product = Fraction(1)
    for name in at_work(tracker, step):
        product *= rules.effects[name].factor
    return product


def blocking(rules: EffectRules, tracker: Tracker, step: int) -> list[str]:
    """Effects at work that keep training from going on."""
    return [name for name in at_work(tracker, step) if rules.effects[name].blocks_training]


def at_work(tracker: Tracker, step: int) -> Iterator[str]:
    """Names of the effects that last at a step."""
    return (name for name, running in tracker.active.items() if running.until is None or step < running.until)


def _remembered(tracker: Tracker, seen: Observation) -> Tracker:
    finite = tracker.finite if seen.train_loss is None else math.isfinite(seen.train_loss)
    gaps, losses = tracker.gaps, tracker.losses
    if seen.train_loss is not None and math.isfinite(seen.train_loss):
        losses = (*losses, seen.train_loss)[-WINDOW_MOST:]
        if seen.val_loss is not None and math.isfinite(seen.val_loss):
            gaps = (*gaps, seen.val_loss - seen.train_loss)[-WINDOW_MOST:]
    results = (*tracker.results, *seen.results)[-WINDOW_MOST:]
    replies = (*tracker.replies, *seen.replies)[-WINDOW_MOST:]
    return replace(tracker, finite=finite, gaps=gaps, losses=losses, results=results, replies=replies)


def _holds(rule: EffectRule, now: Tracker, seen: Observation) -> bool:
    window, above = rule.window or 1, rule.above or 0.0
    match rule.trigger:
        case "gap":
            return len(now.gaps) >= window and math.fsum(now.gaps[-window:]) / window > above
        case "consecutive":
            return _row_of(rule, now.results, len(seen.results))
        case "repetition":
            last_replies = now.replies[-window:]
            return len(last_replies) == window and Counter(last_replies).most_common(1)[0][1] / window > above
        case "plateau":
            before = now.losses[:-window]
            return bool(before) and min(now.losses[-window:]) >= min(before) - above
        case "not_finite":
            return not now.finite
        case "level_up":
            return seen.level_up


def _row_of(rule: EffectRule, results: tuple[Grade, ...], new: int) -> bool:
    """Whether `count` of the rule's results stand in a row that ends among the `new` last ones."""
    count = rule.count or 1
    length = 0
    for result in results[-(new + count - 1) :] if new else ():
        length = length + 1 if result in rule.results else 0
        if length >= count:
            return True
    return False


def _end(rule: EffectRule, running: Running, step: int, holds: bool) -> int | None:
    """When an effect at work ended, None when it has not."""
    if running.until is not None:
        return running.until if step >= running.until else None
    return None if holds else step


def _rested(rule: EffectRule, ended: int | None, step: int) -> bool:
    return ended is None or step >= ended + rule.cooldown
