"""Which problems a configuration has at a level, and drawing distinct ones of a template. (specs/guild.md 2.4)"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import NamedTuple

from guild.skills.binary.auxiliary import task_templates
from guild.skills.binary.expressions import Call, is_evaluation, is_training
from guild.skills.binary.levels import DIFFICULTIES, operand_bits
from guild.skills.binary.operations import OPERATIONS, Difficulty
from guild.skills.binary.settings import Settings
from guild.skills.binary.templates import Template, at_least, chains, draw, listed, single

COUNTED_TO = 1_000_000
"""A larger space is not counted."""
CERTAIN = 1_200_000
"""With so many expected training problems there are more than COUNTED_TO of them: the share that is held out hardly varies in so many."""
SINGLE_SHARE, CHAIN_SHARE = 0.8, 0.4
"""Expected share of problems that training may show: of single calls, and at least of chains, whose steps must all be allowed."""
DRAWN_SHARE = 32
"""Problems are drawn, not listed, while at most one in so many of a template is wanted."""
KEPT = 20_000
"""Longest list that stays in memory for the next batch."""


class Group(NamedTuple):
    """Problems of one form or task and one template."""

    form: str
    template: Template


def groups(settings: Settings) -> dict[Difficulty, dict[str, list[Group]]]:
    """Every group of a configuration, by difficulty and form or task; only what has any."""
    of_forms = [single(OPERATIONS[name]) for name in settings.operations]
    of_forms += chains(settings.operations) if settings.chains else []
    found: dict[Difficulty, dict[str, list[Group]]] = {name: defaultdict(list) for name in DIFFICULTIES}
    for form in settings.forms if settings.auxiliary_share < 1 else ():
        for template in of_forms:
            found[template.difficulty][form].append(Group(form, template))
    for task in settings.tasks if settings.auxiliary_share > 0 else ():
        for template in task_templates(task, settings.operations):
            found[template.difficulty][task].append(Group(task, template))
    return {name: dict(by_form) for name, by_form in found.items() if by_form}


class Pools:
    """Problems of templates at a level; lists that are short enough are kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Template, int, bool], tuple[Call, ...]] = {}

    def every(self, template: Template, level: int, *, evaluation: bool) -> tuple[Call, ...]:
        """All problems of a template, in a fixed order."""
        key = (template, operand_bits(level), evaluation)
        found = self._kept.get(key)
        if found is None:
            found = tuple(listed(template, key[1], evaluation=evaluation))
            if len(found) <= KEPT:
                self._kept[key] = found
        return found

    def take(self, template: Template, level: int, count: int, rng: Random, *, evaluation: bool) -> list[Call]:
        """`count` distinct problems; fewer when the template has no more."""
        bits = operand_bits(level)
        if count * DRAWN_SHARE <= at_least(template, bits):
            drawn = _draw_distinct(template, bits, count, rng, evaluation)
            if drawn is not None:
                return drawn
        every = self.every(template, level, evaluation=evaluation)
        return list(every) if count >= len(every) else rng.sample(every, count)


def _draw_distinct(template: Template, bits: int, count: int, rng: Random, evaluation: bool) -> list[Call] | None:
    """Problems drawn one by one; None when they come too slowly, as they do where few are left."""
    belongs = is_evaluation if evaluation else is_training
    taken: dict[Call, None] = {}
    for _ in range(100 + 100 * count):
        call = draw(template, rng, bits)
        if call not in taken and belongs(call):
            taken[call] = None
            if len(taken) == count:
                return list(taken)
    return None


def space(settings: Settings, level: int) -> int | None:
    """How many distinct training problems a level has, each form counted for itself; None when more than a million."""
    bits = operand_bits(level)
    times: dict[Template, int] = defaultdict(int)
    for by_form in groups(settings).values():
        for members in by_form.values():
            for group in members:
                times[group.template] += 1
    expected = sum(at_least(each, bits) * (CHAIN_SHARE if each.chain else SINGLE_SHARE) * forms for each, forms in times.items())
    if expected > CERTAIN:
        return None
    total = 0
    for template, forms in times.items():
        for _ in listed(template, bits, evaluation=False):
            total += forms
            if total > COUNTED_TO:
                return None
    return total
