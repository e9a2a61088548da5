"""Batches: the seed decides them, training and evaluation never meet, problems are distinct as far as there are any."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import product

import pytest

from guild.skills.binary.expressions import Call, is_evaluation, is_training
from guild.skills.binary.generator import seeded
from guild.skills.binary.levels import operand_bits
from guild.skills.binary.operations import OPERATIONS
from guild.skills.binary.pools import groups
from guild.skills.binary.settings import Settings
from guild.skills.binary.skill import BinarySkill
from guild.skills.binary.templates import Template, at_least, draw, listed
from guild.skills.contract import held_out
from modelwright.errors import ConfigError, UsageError

TEMPLATES = sorted(
    {group.template for by_form in groups(Settings()).values() for members in by_form.values() for group in members},
    key=lambda each: each.names(),
)


def digest(skill: BinarySkill, level: int, seed: int) -> str:
    samples = [sample.as_dict() for sample in skill.generate(level, 300, seed)]
    return hashlib.sha256(json.dumps(samples, ensure_ascii=False).encode()).hexdigest()


def test_a_seed_gives_the_same_batch_whatever_was_made_before() -> None:
    used = BinarySkill()
    used.generate(3, 50, seed=8), used.evaluation(3), used.generate(3, 5000, seed=9)
    for level in (1, 3, 12, 30):
        assert digest(used, level, 1) == digest(BinarySkill(), level, 1)
        assert digest(used, level, 1) != digest(used, level, 2)


def test_the_batch_of_a_seed_is_the_one_of_every_machine() -> None:
    assert digest(BinarySkill(), 9, 1) == BATCH


BATCH = "8eb441bcce4c67beadb177cf353c79f82eb0d16585a589d8f494b3a6fb3fb3fe"


@pytest.mark.parametrize("level", [1, 2, 8, 30])
def test_training_never_shows_what_evaluation_may_ask_nor_a_step_of_it(level: int) -> None:
    skill = BinarySkill()
    asked = {sample.metadata["problem"] for seed in range(5) for sample in skill.evaluation(level, 200, seed)}
    assert all(held_out(problem) for problem in asked)
    for sample in skill.generate(level, 3000, seed=1):
        assert not held_out(sample.metadata["problem"])
        assert sample.metadata["problem"] not in asked


def test_the_steps_of_a_training_chain_are_not_held_out_either() -> None:
    bits = operand_bits(3)
    for template in TEMPLATES:
        if template.chain and template.operation.name == "add":
            for at in range(20):
                call = draw(template, seeded("steps", template.names(), at), bits)
                inner = [argument for argument in call.arguments if isinstance(argument, Call)]
                if any(is_evaluation(argument) for argument in inner):
                    assert not is_training(call)
    both = next(template for template in TEMPLATES if template.chain)
    assert all(is_training(call) for call in listed(both, 3, evaluation=False))


def all_defined(template: Template, bits: int) -> set[Call]:
    """Every problem of an unsigned template by trying all numbers, held out or not."""
    limit = 1 << bits
    columns: list[list[tuple[int | Call, int]]] = []
    for inner in template.inners:
        if inner is None:
            columns.append([(value, value) for value in range(limit)])
        else:
            tried = [values for values in product(range(limit), repeat=inner.arity) if inner.defined(0, *values)]
            columns.append([(Call(inner, values), inner.compute(*values)) for values in tried if inner.compute(*values) < limit])
    rows = [row for row in product(*columns) if template.operation.defined(0, *(value for _, value in row))]
    return {Call(template.operation, tuple(argument for argument, _ in row)) for row in rows}


def test_the_lists_hold_every_problem_once_and_the_lower_bound_is_one() -> None:
    bits = operand_bits(1)
    for template in TEMPLATES:
        training = list(listed(template, bits, evaluation=False))
        evaluation = list(listed(template, bits, evaluation=True))
        assert len({*training, *evaluation}) == len(training) + len(evaluation)
        assert all(is_training(call) for call in training) and all(is_evaluation(call) for call in evaluation)
        if template.operation.signed:
            every = {*training, *evaluation}
        else:
            every = all_defined(template, bits)
            assert {*training, *evaluation} == {call for call in every if is_training(call) or is_evaluation(call)}
        assert len(every) >= at_least(template, bits)
        rng = seeded("drawn", template.names())
        assert all(draw(template, rng, bits) in every for _ in range(30))


def test_the_lower_bound_holds_at_the_next_level_too() -> None:
    bits = operand_bits(2)
    for template in TEMPLATES:
        if template.chain and not all(template.inners):
            assert len(all_defined(template, bits)) >= at_least(template, bits)


def test_the_small_configuration_is_brief_and_counts_its_space() -> None:
    skill = BinarySkill.small()
    spaces = [skill.space(level) for level in range(1, 13)]
    assert all(count is not None and before < count for before, count in zip([0, *spaces[:-1]], spaces, strict=True))  # type: ignore[operator]
    assert skill.space(5) is not None and skill.space(5) < 200 <= skill.space(6)  # type: ignore[operator]
    first = skill.generate(6, 200, seed=0)
    assert len({sample.user_prompt for sample in first}) == 200
    assert {sample.scenario for sample in first} == {"brief"}
    assert all(
        sample.user_prompt.startswith("Compute: ") and "\n" not in sample.user_prompt + sample.assistant_response for sample in first
    )
    assert BinarySkill.small(("add",)).space(4) >= 200  # type: ignore[operator]


@pytest.mark.parametrize("level", [1, 6])
def test_a_batch_takes_the_whole_space_before_it_repeats_and_repeats_evenly(level: int) -> None:
    skill = BinarySkill.small()
    space = skill.space(level)
    assert space is not None
    assert len({sample.user_prompt for sample in skill.generate(level, space, seed=5)}) == space
    counts = Counter(sample.user_prompt for sample in skill.generate(level, 3 * space + 4, seed=5))
    assert len(counts) == space and set(counts.values()) == {3, 4}
    samples = skill.generate(level, 2 * space, seed=5)
    assert len({sample.id for sample in samples}) == len(samples)


def test_the_whole_space_of_the_full_configuration_is_distinct_too() -> None:
    skill = BinarySkill()
    space = skill.space(1)
    assert space is not None and 1000 < space < 100_000
    samples = skill.generate(1, space, seed=1)
    assert len({(sample.scenario, sample.metadata["problem"]) for sample in samples}) == space
    assert skill.space(10) is None and skill.space(30) is None


def test_the_evaluation_set_is_fixed_and_a_shorter_one_is_its_beginning() -> None:
    skill = BinarySkill()
    whole = skill.evaluation(5, 100)
    assert [sample.as_dict() for sample in whole[:20]] == [sample.as_dict() for sample in BinarySkill().evaluation(5)]
    assert len({sample.user_prompt for sample in whole}) == 100
    assert [sample.user_prompt for sample in skill.evaluation(5, 20, seed=1)] != [sample.user_prompt for sample in whole[:20]]
    small = BinarySkill.small().evaluation(1, 50)
    assert 0 < len(small) < 20 and len({sample.user_prompt for sample in small}) == len(small)


def test_levels_counts_and_options_out_of_range_are_refused_with_every_fault() -> None:
    skill = BinarySkill()
    for level in (0, 31, True, "3"):
        with pytest.raises(UsageError, match="level: found"):
            skill.generate(level, 1, 0)  # type: ignore[arg-type]
    for count in (0, -1, 10**7):
        with pytest.raises(UsageError, match="count: found"):
            skill.generate(1, count, 0)
    with pytest.raises(ConfigError) as caught:
        BinarySkill(forms=("short",), operations=("add", "add"), symbol_share=2, chains=1)  # type: ignore[arg-type]
    assert {fault.path for fault in caught.value.faults} == {"forms", "operations", "symbol_share", "chains"}
    with pytest.raises(ConfigError, match="forms"):
        BinarySkill(forms=(), tasks=(), auxiliary_share=0)
    with pytest.raises(ConfigError, match="auxiliary_share"):
        BinarySkill(tasks=())


def test_level_info_says_what_is_asked() -> None:
    info = BinarySkill().level_info(30)
    assert info["bits"] == 32 and info["symbol_share"] == 0.75 and info["operations"] == list(OPERATIONS)
    assert BinarySkill().level_info(7)["symbol_share"] == 0 and BinarySkill().level_info(29)["bits"] == 30
    assert "nothing is divided by zero" in info["definitions"]["division"]
    json.dumps(info)
