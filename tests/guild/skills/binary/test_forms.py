"""The exact texts of every form, against the specification's examples and hand-worked ones."""

from __future__ import annotations

import pytest

from guild.skills.binary.expressions import Call, canonical
from guild.skills.binary.forms import Problem
from guild.skills.binary.operations import OPERATIONS
from guild.skills.binary.skill import prompt_of, reply_of
from guild.skills.binary.symbols import PLAIN, Notation


def call(name: str, *arguments: int | Call, width: int = 0) -> Call:
    return Call(OPERATIONS[name], arguments, width)


def texts(form: str, expression: Call, notation: Notation = PLAIN, **more: object) -> tuple[str, list[str]]:
    problem = Problem(form, expression, notation, **more)  # type: ignore[arg-type]
    return prompt_of(problem), reply_of(problem).split("\n")


CHAIN = call("add", call("add", 2, 2), 1)


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        (call("add", 3, 4), "add(①①, ①⓪⓪) = ①①①"),
        (call("subtract", 5, 5), "subtract(①⓪①, ①⓪①) = ⓪"),
        (call("divide", 13, 4), "divide(①①⓪①, ①⓪⓪) = ①①"),
        (call("tobinary", 6), "tobinary(6) = ①①⓪"),
        (call("todecimal", 13), "todecimal(①①⓪①) = 13"),
        (call("lessthan", 37, 14), "lessthan(①⓪⓪①⓪①, ①①①⓪) = False"),
        (call("add_signed", -5, 3, width=4), "add_signed(①⓪①①, ⓪⓪①①) = ①①①⓪"),
        (call("multiply_signed", -2, 3, width=3), "multiply_signed(①①⓪, ⓪①①) = ①①①⓪①⓪"),
        (call("negate", 3, width=3), "negate(⓪①①) = ①⓪①"),
        (call("absolute_value", -3, width=4), "absolute_value(①①⓪①) = ⓪⓪①①"),
        (call("sign_of", -1, width=2), "sign_of(①①) = NEGATIVE"),
    ],
)
def test_brief(expression: Call, line: str) -> None:
    prompt, reply = texts("brief", expression)
    assert reply == [line]
    width = f", {expression.width})" if expression.width else ")"
    assert prompt == "Compute: " + line.rpartition(" = ")[0].removesuffix(")") + width


@pytest.mark.parametrize(
    ("expression", "verification"),
    [
        (call("add", 3, 4), "3 + 4 = 7"),
        (call("lessthan", 37, 14), "37 < 14 is False"),
        (call("equals", 2, 2), "2 == 2 is True"),
        (call("divide", 13, 4), "13 / 4 = 3 remainder 1"),
        (call("divide_by_2", 12), "12 / 2 = 6"),
        (call("decrement", 8), "8 - 1 = 7"),
        (call("maximum", 8, 3), "max(8, 3) = 8"),
        (call("todecimal", 13), "8 + 4 + 1 = 13"),
        (call("tobinary", 0), "0 = 0"),
        (call("subtract_signed", -5, -3, width=4), "-5 - (-3) = -2"),
        (call("negate", -5, width=4), "0 - (-5) = 5"),
        (call("absolute_value", -5, width=4), "|-5| = 5"),
        (call("sign_of", -5, width=4), "-5 < 0"),
    ],
)
def test_verify(expression: Call, verification: str) -> None:
    prompt, reply = texts("verify", expression)
    assert prompt.startswith("Compute [verify]: ")
    assert len(reply) == 2 and reply[0] == texts("brief", expression)[1][0] and reply[1] == f"Verification: {verification}"


def test_a_chain_is_echoed_and_worked_from_inside_out() -> None:
    prompt, reply = texts("verify", CHAIN)
    assert prompt == "Compute [verify]: add(add(①⓪, ①⓪), ①)"
    assert reply == [
        "add(add(①⓪, ①⓪), ①)",
        "Inner: add(①⓪, ①⓪) = ①⓪⓪ (2+2=4)",
        "Outer: add(①⓪⓪, ①) = ①⓪①",
        "Verification: (2 + 2) + 1 = 5",
    ]
    _, reply = texts("verify", call("greaterthan", call("divide", 13, 4), call("minimum", 3, 6)))
    assert reply[1:] == [
        "Inner: divide(①①⓪①, ①⓪⓪) = ①① (floor(13/4)=3)",
        "Inner: minimum(①①, ①①⓪) = ①① (min(3,6)=3)",
        "Outer: greaterthan(①①, ①①) = False",
        "Verification: floor(13 / 4) > min(3, 6) is False",
    ]


def test_show_work_has_at_most_four_key_steps_and_a_sign_rule_when_signed() -> None:
    prompt, reply = texts("show-work", call("add_signed", -5, 3, width=5), hint=True)
    assert prompt == "Compute [show-work]: add_signed(①①⓪①①, ⓪⓪⓪①①, 5)\nFirst is NEGATIVE, second is POSITIVE."
    assert reply == [
        "add_signed(①①⓪①①, ⓪⓪⓪①①)",
        "Sign rule: NEGATIVE + POSITIVE = NEGATIVE",
        "Key steps:",
        "bit 0: ① + ① + carry ⓪ -> write ⓪, carry ①",
        "bit 1: ① + ① + carry ① -> write ①, carry ①",
        "bit 2: ⓪ + ⓪ + carry ① -> write ①, carry ⓪",
        "bit 3: ① + ⓪ + carry ⓪ -> write ①, carry ⓪",
        "Result: ①①①①⓪",
        "Verification: -5 + 3 = -2",
    ]


def test_trace_lists_operands_every_step_and_the_value() -> None:
    assert texts("trace", call("subtract", 5, 3))[1] == [
        "subtract(①⓪①, ①①)",
        "Operands:",
        "a = ①⓪① (5, positive)",
        "b = ①① (3, positive)",
        "Step-by-step:",
        "bit 0: ① - ① - borrow ⓪ -> write ⓪, borrow ⓪",
        "bit 1: ⓪ - ① - borrow ⓪ -> write ①, borrow ①",
        "bit 2: ① - ⓪ - borrow ① -> write ⓪, borrow ⓪",
        "Final: ①⓪ = 2",
        "Verification: 5 - 3 = 2 ✓",
    ]
    assert texts("trace", call("multiply_signed", 5, -6, width=4))[1][5:8] == [
        "bit 1: 5 * 2 = 10",
        "bit 3: 5 * -8 = -40",
        "Final: ①①①⓪⓪⓪①⓪ = -30",
    ]
    assert texts("trace", call("divide", 5, 2))[1][5:9] == [
        "bit 2: 1 < 2 -> write ⓪",
        "bit 1: 2 >= 2 -> write ①, remainder 0",
        "bit 0: 1 < 2 -> write ⓪",
        "Final: ①⓪ = 2",
    ]


def test_prompt_and_reply_wear_the_symbols_of_their_key() -> None:
    notation = Notation("▲", "■", (("multiply", "⊗"), ("add", "⊕")))
    prompt, reply = texts("verify", CHAIN, notation)
    assert prompt == (
        "Symbol Key:\n▲ = 0 (zero bit)\n■ = 1 (one bit)\nOperations:\n⊗ = multiply\n⊕ = add\n\nCompute [verify]: ⊕(⊕(■▲, ■▲), ■)"
    )
    assert reply[2] == "Outer: ⊕(■▲▲, ■) = ■▲■"


def test_the_canonical_text_is_the_expression_alone() -> None:
    assert canonical(CHAIN) == "add(add(2,2),1)"
    assert canonical(call("add_signed", -5, 3, width=4)) == "add_signed:4(-5,3)"


@pytest.mark.parametrize(
    ("form", "expression", "twist", "prompt", "answer"),
    [
        ("true_false", call("add", 3, 4), 0, "True or False: add(①①, ①⓪⓪) = ①①①", "True"),
        ("true_false", call("add", 3, 4), 1, "True or False: add(①①, ①⓪⓪) = ①①⓪", "False"),
        ("error_detection", call("add", 3, 4), 1 + 2 * 2, "Find the error: add(①①, ①⓪⓪) = ①①", "①①①"),
        ("error_detection", call("negate", 3, width=3), 0, "Find the error: negate(⓪①①, 3) = ①⓪①", "no error"),
        ("fill_blank", call("add", 3, 4), 9, "Fill the blank: add(①①, ①⓪⓪) = ①_①", "①"),
        ("reverse", call("subtract", 5, 3), 0, "Find the operand: subtract(?, ①①) = ①⓪", "①⓪①"),
        ("reverse", call("subtract", 5, 3), 1, "Find the operand: subtract(①⓪①, ?) = ①⓪", "①①"),
    ],
)
def test_auxiliary_tasks(form: str, expression: Call, twist: int, prompt: str, answer: str) -> None:
    assert texts(form, expression, twist=twist) == (prompt, [f"Answer: {answer}"])
