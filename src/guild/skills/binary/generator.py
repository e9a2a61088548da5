"""A batch of problems from a seed: the mix of a level, each problem once while the level has enough. (specs/guild.md 2.4, 6.1)"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

from guild.skills.binary.auxiliary import TASKS, used_names
from guild.skills.binary.expressions import Call
from guild.skills.binary.forms import FORMS, Problem
from guild.skills.binary.levels import KEYS_FROM, mix
from guild.skills.binary.pools import Group, Pools, groups
from guild.skills.binary.settings import Settings
from guild.skills.binary.symbols import PLAIN, draw_key

FORM_WEIGHTS = dict(zip(FORMS, (35, 25, 15, 10), strict=True))
CHAIN_SHARE = 0.5
"""Share of chains among the problems of one form and difficulty that has both chains and single calls."""


class Drawn(NamedTuple):
    """One problem of a batch before it is given its symbols."""

    form: str
    call: Call
    difficulty: str


class Table(NamedTuple):
    """The groups of a level with their weights and the running sums of these."""

    groups: list[Group]
    weights: list[float]
    cumulative: list[float]

    def others(self, difficulty: str, count: int, ended: set[int], rng: Random) -> list[int]:
        """`count` groups in place of ended ones: of the same difficulty while one of it is left, else any; none when all have ended."""
        left = [at for at in range(len(self.groups)) if at not in ended]
        alike = [at for at in left if self.groups[at].template.difficulty == difficulty] or left
        return rng.choices(alike, [self.weights[at] for at in alike], k=count) if alike else []


class Generator:
    """Batches of one configuration. Everything that is random comes from the seed; lists of problems are kept between batches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._groups = groups(settings)
        self._pools = Pools()
        self._tables: dict[int, Table] = {}

    def batch(self, level: int, count: int, rng: Random, *, evaluation: bool = False) -> list[Drawn]:
        """`count` problems in random order. Distinct while the level has as many; beyond, evaluation gives all there are and training
        repeats all of them evenly."""
        table = self._table(level)
        every = range(len(table.groups))
        wanted = [0] * len(every)
        taken: dict[int, list[Call]] = {}
        ended: set[int] = set()
        chosen = rng.choices(every, cum_weights=table.cumulative, k=count)
        while chosen:
            for at in chosen:
                wanted[at] += 1
            lacking: Counter[str] = Counter()
            for at in sorted(set(chosen)):
                group = table.groups[at]
                taken[at] = self._pools.take(group.template, level, wanted[at], rng, evaluation=evaluation)
                if len(taken[at]) < wanted[at]:
                    lacking[group.template.difficulty] += wanted[at] - len(taken[at])
                    wanted[at] = len(taken[at])
                    ended.add(at)
            chosen = [at for difficulty, more in lacking.items() for at in table.others(difficulty, more, ended, rng)]
        found = [Drawn(table.groups[at].form, call, table.groups[at].template.difficulty) for at in sorted(taken) for call in taken[at]]
        if len(found) < count and found and not evaluation:
            found = found * (count // len(found)) + rng.sample(found, count % len(found))
        rng.shuffle(found)
        return found

    def dress(self, drawn: Drawn, level: int, rng: Random) -> Problem:
        """The problem with its key, its hint and what its task changes."""
        settings = self._settings
        notation = PLAIN
        if level >= KEYS_FROM and rng.random() < settings.symbol_share:
            notation = draw_key(rng, used_names(drawn.call), settings.operations)
        hint = drawn.call.width > 0 and drawn.form in FORMS and drawn.call.operation.name != "sign_of"
        return Problem(drawn.form, drawn.call, notation, hint and rng.random() < settings.hint_share, rng.getrandbits(32))

    def _table(self, level: int) -> Table:
        """Every group with its weight: difficulties by the level's mix, forms by FORM_WEIGHTS and the auxiliary share, chains by
        CHAIN_SHARE, shapes evenly."""
        if level not in self._tables:
            members: list[Group] = []
            weights: list[float] = []
            shares = mix(level)
            for difficulty, by_form in self._groups.items():
                tasks = sum(1 for form in by_form if form in TASKS)
                sizes = {form: self._form_weight(form, tasks) for form in by_form}
                whole = sum(sizes.values())
                for form, groups_of_form in by_form.items():
                    members += groups_of_form
                    weights += [shares[difficulty] * sizes[form] / whole * share for share in _shares(groups_of_form)]
            self._tables[level] = Table(members, weights, list(accumulate(weights)))
        return self._tables[level]

    def _form_weight(self, form: str, tasks: int) -> float:
        """The share of a form or task within one difficulty. tasks: how many tasks that difficulty has."""
        settings = self._settings
        if form in TASKS:
            return settings.auxiliary_share / tasks
        return (1 - settings.auxiliary_share) * FORM_WEIGHTS[form] / sum(FORM_WEIGHTS[name] for name in settings.forms)


def _shares(members: Sequence[Group]) -> list[float]:
    """The share of each group of one form and difficulty; together 1."""
    chains = sum(1 for group in members if group.template.chain)
    alone = len(members) - chains
    if not chains or not alone:
        return [1 / len(members)] * len(members)
    return [CHAIN_SHARE / chains if group.template.chain else (1 - CHAIN_SHARE) / alone for group in members]


def seeded(*parts: object) -> Random:
    """A generator of random numbers derived from named parts by SHA-256, the same on every machine."""
    text = "|".join(map(str, parts))
    return Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
