"""Passives: four small tests of general abilities, the same problems at every checkpoint, by which forgetting and transfer show.

A module's problems follow from its families, its seed and the generators' version alone; `config_hash` says whether two scores came from
the same problems. (specs/guild.md 2.1.9)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guild.errors import UnknownNameError
from guild.evaluation import answers, sets
from guild.evaluation.families import DIFFICULTIES, FAMILIES, Difficulty, Family
from guild.evaluation.measuring import Question
from guild.evaluation.questions import row_questions
from guild.evaluation.rows import Row
from guild.records.evaluation_records import PassiveMode
from modelwright.files import sha256_json

PROBLEMS: dict[PassiveMode, int] = {"lite": 5, "full": 40}
_SEED = 90210
"""Not that of the validation sets, so that a passive asks other problems."""


class UnknownPassiveError(UnknownNameError):
    """No passive of that id."""

    kind = "passive"


@dataclass(frozen=True)
class PassiveModule:
    """One passive. families: names of the primitive families it asks, in turn. difficulties: from which, in turn. A change of either is
    a new `version`."""

    id: str
    version: str
    families: tuple[str, ...]
    difficulties: tuple[Difficulty, ...] = DIFFICULTIES

    @property
    def config_hash(self) -> str:
        """SHA-256 of all that decides problems and judgement."""
        return sha256_json(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The configuration."""
        return {
            "id": self.id,
            "version": self.version,
            "families": list(self.families),
            "difficulties": list(self.difficulties),
            "seed": _SEED,
            "generators": sets.VERSION,
            "judge": answers.VERSION,
            "problems": dict(PROBLEMS),
        }

    def questions(self, mode: PassiveMode) -> list[Question]:
        """The problems of a mode: `lite` asks the first five of `full`."""
        return row_questions(self.rows()[: PROBLEMS[mode]], {})

    def rows(self) -> list[Row]:
        """All problems, in the order in which they are asked: one of each family, then one of each at the next difficulty."""
        known = {family.name: family for family in FAMILIES}
        most = -(-PROBLEMS["full"] // len(self.families))
        turns = [self._rows_of(known[name], most) for name in self.families]
        return [rows[at] for at in range(most) for rows in turns][: PROBLEMS["full"]]

    def _rows_of(self, family: Family, count: int) -> list[Row]:
        each = -(-count // len(self.difficulties))
        rows = sets.family_rows(family, _SEED, each)
        return [rows[difficulty][at] for at in range(each) for difficulty in self.difficulties][:count]


MODULES: tuple[PassiveModule, ...] = (
    PassiveModule("arithmetic", "1.0.0", ("addition", "subtraction", "multiplication", "division", "remainder")),
    PassiveModule("counting", "1.0.0", ("count_letter", "vowel_count", "digit_sum", "number_pattern", "most_frequent")),
    PassiveModule("logic", "1.0.0", ("boolean_logic", "implication", "bracket_matching", "ordering", "subset")),
    PassiveModule("string_craft", "1.0.0", ("copy", "reverse", "slice", "replace_letter", "letter_shift")),
)


def passive_module(id: str) -> PassiveModule:
    """The module of an id. Raises UnknownPassiveError."""
    found = next((module for module in MODULES if module.id == id), None)
    if found is None:
        raise UnknownPassiveError(id, [module.id for module in MODULES])
    return found
