"""Passives: the same problems at every checkpoint. (specs/guild.md 2.1.9)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from guild.evaluation.families import FAMILIES
from guild.evaluation.passives import MODULES, UnknownPassiveError, passive_module
from guild.evaluation.sets import family_rows
from guild.records.evaluation_records import PASSIVE_PROBLEMS


def test_the_four_modules_ask_as_many_problems_as_their_modes_allow() -> None:
    assert [module.id for module in MODULES] == ["arithmetic", "counting", "logic", "string_craft"]
    for module in MODULES:
        lite, full = module.questions("lite"), module.questions("full")
        assert len(lite) in PASSIVE_PROBLEMS["lite"]
        assert len(full) in PASSIVE_PROBLEMS["full"]
        assert [question.prompt for question in lite] == [question.prompt for question in full[:5]]
        assert len({question.prompt for question in full}) == len(full)
        assert {row.difficulty for row in module.rows()} == {"easy", "medium", "hard"}
        assert [row.skill for row in module.rows()[:5]] == list(module.families)
        for question in full:
            assert question.judge(question.expected).correct
            assert not question.judge("").correct


def test_passives_and_validation_sets_share_no_problem() -> None:
    of_sets = {row.user_prompt for family in FAMILIES for rows in family_rows(family, 20260101).values() for row in rows}
    asked = [question.prompt for module in MODULES for question in module.questions("full")]
    shared = sum(prompt in of_sets for prompt in asked)
    assert shared <= 0.15 * len(asked)  # easy families have few problems, so some meet


def test_the_configuration_decides_the_digest() -> None:
    first = MODULES[0]
    assert len({module.config_hash for module in MODULES}) == 4
    assert replace(first, version="1.0.1").config_hash != first.config_hash
    assert replace(first, families=first.families[::-1]).config_hash != first.config_hash
    assert replace(first).config_hash == first.config_hash
    with pytest.raises(UnknownPassiveError, match="Did you mean 'counting'"):
        passive_module("countin")
