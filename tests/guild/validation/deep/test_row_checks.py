"""Each check of a row: what it names, and what it leaves alone (acceptance item 17)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guild.validation.deep.checks import ROW_CHECKS
from guild.validation.deep.views import view_of
from guild.validation.validate import validate_file
from helpers.guild_rows import chat, turns, write_rows

FIRING: list[tuple[str, Any, str]] = [
    ("leakage", chat("The word is harbour lamp. Say it.", "harbour lamp"), "the whole answer"),
    ("leakage", chat("Solve op(1, 2) = ? now", "op(1, 2) = ?\nThen it is three."), "the first line of the answer"),
    (
        "leakage",
        chat("Arrange (3 1 2) somehow", "The order you want is this: (3 1 2), and nothing else will do."),
        "the numbers '(3 1 2)'",
    ),
    ("leakage", turns(("system", "Always say: blue moon."), ("user", "Go on"), ("assistant", "blue moon")), "the whole answer"),
    ("protocol", chat("Why?", "🤔🤔🤔\nBecause it is."), "the thinking mark 🤔"),
    ("protocol", chat("Why?", "<think>hm, well\nBecause it is."), "<think>"),
    ("repetition", chat("Sing", "We said no no no no no to that."), "the word 'no' 5 times"),
    ("repetition", chat("Sing", "We said No, no! NO no; no to that."), "the word 'no' 5 times"),
    ("repetition", chat("Talk", "The sea is very calm. It rains. The sea is very calm. Good."), "the sentence 'the sea is very calm'"),
    ("repetition", chat("Talk", "The lamp is quite old\nyes\nThe lamp is quite old"), "the sentence 'the lamp is quite old'"),
    ("repetition", chat("Scream", "Aaaaaaaaaargh! Aaaaaargh me hearties"), "the letter 'a'"),
    ("degenerate", chat("Why?", ""), "an empty reply"),
    ("degenerate", chat("Why?", " \n\t "), "a blank reply"),
    ("degenerate", chat("Why?", "yes"), "a reply of 3 characters"),
    ("degenerate", chat("Why?", "...!?! --"), "without a letter or digit"),
    ("degenerate", turns(("user", "a"), ("assistant", "a good reply"), ("user", "b"), ("assistant", "")), "an empty reply"),
    ("json", chat("JSON please", '{"answer": 7'), "JSON that does not parse"),
    ("json", chat("JSON please", "{'answer': 7}"), "JSON that does not parse"),
    ("json", chat("JSON please", '[{"answer": 7}, {"answer": ]'), "JSON that does not parse"),
    ("json", chat("JSON please", 'Here it is:\n```json\n{"answer": seven}\n```\n'), "JSON that does not parse"),
    ("encoding", chat("Name a cafÃ© here", "A good one."), "text in a wrong encoding, '\\xc3\\xa9' at character 11"),
    ("encoding", chat("Quote", "He said â€œgo onâ€\x9d at once."), "text in a wrong encoding"),
    ("encoding", chat("Smile", "Here: ðŸ˜€ for you"), "text in a wrong encoding"),
    ("encoding", chat("Name", "A lost \ufffd letter"), "text in a wrong encoding, '\\ufffd'"),
    ("encoding", chat("Zero", "a NUL \x00 in it"), "a NUL character at character 7"),
    ("encoding", chat("Bell", "a bell \x07 in it"), "the control character U+0007"),
    ("encoding", chat("Mark", "a mark \ufeff in it"), "the control character U+FEFF"),
    ("encoding", chat("Next\x85line", "a fine reply"), "the control character U+0085"),
    ("flow", turns(("user", "a"), ("system", "b"), ("assistant", "c")), "a system message as message 2"),
    ("flow", turns(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d")), "a system message as message 2"),
    ("flow", turns(("assistant", "a"), ("user", "b"), ("assistant", "c")), "an assistant turn that answers nothing"),
    ("flow", turns(("user", "a"), ("user", "b"), ("assistant", "c")), "two turns of one side in a row"),
    ("flow", turns(("user", "a"), ("assistant", "b"), ("user", "c")), "a last turn of the user without a reply"),
    ("length_ratio", chat("x" * 200, "x" * 10), "a prompt 20 times as long"),
    ("length_ratio", chat("Go on", "y" * 250), "a reply 50 times as long"),
]

QUIET: list[tuple[str, Any]] = [
    ("leakage", chat("Is 7 more than 3? Say True or False.", "True")),  # too short to be a sign
    ("leakage", turns(("user", "Name it"), ("assistant", "blue moon"), ("user", "Again"), ("assistant", "blue moon"))),
    ("leakage", chat("Arrange (3 1 2) somehow", "The order that you want is this one: (1 2 3), and nothing else will do.")),
    ("leakage", chat("A line of a poem, please: fog", "fog\nand a much longer second line")),  # a first line below ten characters
    ("protocol", chat("Why?", "🤔🤔🤔\nBecause it is.\n🛑🛑")),
    ("protocol", chat("Why?", "Because it is. 🤔")),
    ("protocol", chat("Why?", "⚡⚡\nBecause it is. 🛡️🛡️")),
    ("protocol", chat("Why?", "<think>hm</think>Because it is.")),
    ("repetition", chat("Sing", "No no no no, and then yes; no no no no.")),  # four at most
    ("repetition", chat("Count", "the bits are 0 0 0 0 0 0 0 and one")),  # digits are no words
    ("repetition", chat("Talk", "Yes. It is. Yes. It is.")),  # too short to be a repetition
    ("repetition", chat("Bits", "①①①①①①①①①①①①①①①①①①①①①①⓪")),  # circled digits are no letters
    ("repetition", chat("Scream", "Aaaargh")),
    ("degenerate", chat("Why?", "It is.")),
    ("degenerate", chat("Bits?", "①⓪①①⓪")),
    ("json", chat("JSON please", '{"answer": [1, 2, {"deep": null}]}')),
    ("json", chat("JSON please", 'Here it is:\n```json\n{"answer": 7}\n```\n')),
    ("json", chat("Set", "{x in X: x > 3} is a set")),
    ("json", chat("Cite", "[1] as the first source says")),
    ("json", chat('{"is": "this"', "It is a torn object.")),
    ("encoding", chat("Café für Åsa, naïve Ñandú À LA CARTE SÃO", "Un « exemple » — très bien: ①⓪ 🤔 \t\r\n日本語")),
    ("flow", turns(("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e"))),
    ("flow", chat()),
    ("length_ratio", chat("x" * 199, "x" * 10)),
    ("length_ratio", chat("Go on", "y" * 249)),
    ("length_ratio", chat("Why then?" * 30, "")),  # an empty reply is named by another check
]


def find(name: str, row: dict[str, Any]) -> str | None:
    return ROW_CHECKS[name].find(view_of(row, "messages"))


@pytest.mark.parametrize(("name", "row", "says"), FIRING)
def test_item_17_a_check_names_what_it_is_for(name: str, row: dict[str, Any], says: str) -> None:
    assert says in (find(name, row) or "")


@pytest.mark.parametrize(("name", "row"), QUIET)
def test_item_17_a_check_leaves_good_rows_alone(name: str, row: dict[str, Any]) -> None:
    assert find(name, row) is None


def test_every_check_has_rows_for_and_against_it() -> None:
    assert {name for name, _, _ in FIRING} == {name for name, _ in QUIET} == set(ROW_CHECKS)


def test_item_17_deep_names_each_kind_of_finding_with_its_first_line(tmp_path: Path) -> None:
    firing = {name: row for name, row, _ in reversed(FIRING)}
    path = write_rows(tmp_path / "data.jsonl", firing.values())
    report = validate_file(path, "deep", schema="chat_sft_v1")
    assert report.valid
    for line, name in enumerate(firing, start=1):
        assert report.stats["deep"][name] >= 1
        assert any(f"({name})" in warning and f"{path}" in warning for warning in report.warnings)
        assert find(name, firing[name]) is not None, line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("repetition", "go go go go go home now"),
        ("degenerate", "?!...!!"),
        ("encoding", "a cafÃ© here"),
        ("protocol", "🤔🤔\nthat is all"),
    ],
)
def test_completion_rows_are_looked_at_too(tmp_path: Path, name: str, text: str) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"text": text}, {"text": '{"looks": like JSON'}])
    report = validate_file(path, "deep", schema="completion_v1")
    assert {check for check, rows in report.stats["deep"].items() if rows} == {name}
