"""A model that really draws its words: chance and seeds, and a chat template that knows no tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.raw_http import call
from helpers.serve_scripts import TOOL, say
from helpers.served import Served, served

MODEL = "modelwright/tiny-0.4m"


@pytest.fixture(scope="module")
def tiny(engine: str) -> Iterator[Served]:
    with served(MODEL, "--engine", engine, "--max-batch", "2") as server:
        yield server


def drawn(server: Served, **more: Any) -> list[str]:
    asked = {"temperature": 1.5, "max_tokens": 24, **more}
    answer = server.client().chat.completions.create(model=MODEL, messages=say("Tell me a story about a cat."), **asked)
    return [choice.message.content for choice in answer.choices]


def test_a_seed_repeats_an_answer_and_another_does_not(tiny: Served) -> None:
    assert drawn(tiny, seed=7) == drawn(tiny, seed=7)
    assert len({drawn(tiny, seed=seed)[0] for seed in range(4)}) > 1


def test_the_answers_of_one_seeded_request_differ_and_repeat(tiny: Served) -> None:
    first = drawn(tiny, seed=3, n=3)
    assert len(set(first)) > 1 and first == drawn(tiny, seed=3, n=3)
    assert first[0] == drawn(tiny, seed=3)[0]


def test_zero_temperature_and_zero_top_p_take_the_most_likely_word(tiny: Served) -> None:
    assert drawn(tiny, temperature=0) == drawn(tiny, temperature=0, stop=["\u0001"]) == drawn(tiny, top_p=0)


def test_a_stream_says_what_the_whole_answer_says(tiny: Served) -> None:
    (whole,) = drawn(tiny, temperature=0, max_tokens=60)
    chunks = tiny.client().chat.completions.create(
        model=MODEL, messages=say("Tell me a story about a cat."), temperature=0, max_tokens=60, stream=True
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole != ""


def test_tools_are_described_where_the_template_says_nothing(tiny: Served) -> None:
    client = tiny.client()
    plain = client.chat.completions.create(model=MODEL, messages=say("Hello"), temperature=0, max_tokens=2).usage.prompt_tokens
    told = client.chat.completions.create(model=MODEL, messages=say("Hello"), tools=[TOOL], temperature=0, max_tokens=2).usage.prompt_tokens
    assert told > plain + 50


def test_the_context_is_the_models_own_and_says_so(tiny: Served) -> None:
    assert call("GET", f"{tiny.url}/v1/health")[1]["capacity"]["max_context_tokens"] == 512
    assert any("512 tokens, the most modelwright/tiny-0.4m supports" in note["text"] for note in tiny.entries("note"))
