"""What the `openai` client gets: chats and completions, streamed and not, from a model whose every word is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.serve_scripts import CONTEXT, say
from helpers.served import Refused, Served

FOX = "The quick brown fox"


def chat(client: Any, server: Served, letter: str, **more: Any) -> Any:
    return client.chat.completions.create(model=server.model, messages=say(letter), **{"temperature": 0, **more})


def streamed(chunks: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    """(text, finish reason) by choice, and the usage."""
    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (text or "")
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    return texts, finishes, usage


def test_a_chat_is_answered_with_its_usage(client: Any, server: Served) -> None:
    answer = chat(client, server, "h")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", FOX, "stop")
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == server.model
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4


@pytest.mark.parametrize(("letter", "text"), [("h", FOX), ("u", "café 🙂!!"), ("b", "bad:\ufffd\ufffd:end")])
def test_stream_and_whole_answer_say_the_same(client: Any, server: Served, letter: str, text: str) -> None:
    whole = chat(client, server, letter)
    texts, finishes, usage = streamed(chat(client, server, letter, stream=True))
    assert texts == {0: text} == {0: whole.choices[0].message.content}
    assert finishes == {0: "stop"}
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.prompt_tokens == whole.usage.prompt_tokens


def test_no_part_of_a_character_and_no_special_token_is_ever_streamed(client: Any, server: Served) -> None:
    parts = [c.delta.content for chunk in chat(client, server, "u", stream=True) for c in chunk.choices if c.delta.content]
    assert "".join(parts) == "café 🙂!!"
    assert not any("\ufffd" in part or "<|" in part for part in parts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("STOP", "one two "),
        (["nowhere", "three", "STOP"], "one two "),
        ("four", "one two STOP three "),
        ("absent", "one two STOP three four"),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client: Any, server: Served, stop: Any, text: str, stream: bool) -> None:
    answer = chat(client, server, "s", stop=stop, stream=stream)
    texts, finishes, _ = (
        streamed(answer) if stream else ({0: answer.choices[0].message.content}, {0: answer.choices[0].finish_reason}, None)
    )
    assert (texts, finishes) == ({0: text}, {0: "stop"})


def test_a_stop_text_frees_the_slot_of_an_endless_answer(client: Any, server: Served) -> None:
    assert chat(client, server, "e", stop="more").choices[0].message.content == "again and once "
    assert chat(client, server, "h").choices[0].message.content == FOX


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_budget_ends_an_answer(client: Any, server: Served, name: str) -> None:
    answer = chat(client, server, "e", **{name: 3})
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)
    assert answer.choices[0].message.content == "again and once more again and "


def test_the_context_ends_an_answer_that_asks_for_more(client: Any, server: Served) -> None:
    prompt = [0] * (CONTEXT - 5) + [ord("e")]
    answer = client.completions.create(model=server.model, prompt=prompt, max_tokens=100, temperature=0)
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= CONTEXT
    assert answer.usage.completion_tokens <= 4


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_have_their_own_index(client: Any, server: Served, stream: bool) -> None:
    answer = chat(client, server, "h", n=5, stream=stream)
    if stream:
        texts, finishes, usage = streamed(answer)
    else:
        texts = {choice.index: choice.message.content for choice in answer.choices}
        finishes, usage = {choice.index: choice.finish_reason for choice in answer.choices}, answer.usage
    assert texts == dict.fromkeys(range(5), FOX)
    assert finishes == dict.fromkeys(range(5), "stop")
    assert usage.completion_tokens == 20


def test_a_biased_token_is_not_drawn(client: Any, server: Served, refused: Refused) -> None:
    if refused("logit_bias", chat, client, server, "h", logit_bias={"1": -100}):
        return
    quick = chat(client, server, "h", logprobs=True, top_logprobs=1).choices[0].logprobs.content[1].token
    vocabulary = json.loads((Path(server.model) / "tokenizer.json").read_text())
    index = next(token["id"] for token in vocabulary["added_tokens"] if token["content"] == quick)
    assert chat(client, server, "h", logit_bias={str(index): -100}, max_tokens=3).choices[0].message.content.startswith("The")
    assert "quick" not in chat(client, server, "h", logit_bias={str(index): -100}, max_tokens=3).choices[0].message.content


def test_chat_logprobs_follow_the_tokens(client: Any, server: Served, refused: Refused) -> None:
    plain = chat(client, server, "h", logprobs=True).choices[0].logprobs.content
    assert [token.token for token in plain] == ["The", " quick", " brown", " fox"] and all(token.top_logprobs == [] for token in plain)
    assert chat(client, server, "h").choices[0].logprobs is None
    if refused("top_logprobs", chat, client, server, "u", logprobs=True, top_logprobs=2):
        return
    content = chat(client, server, "u", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == "café 🙂!!"
    assert all(token.logprob <= 0 and token.logprob == token.top_logprobs[0].logprob and len(token.top_logprobs) == 2 for token in content)


def test_streamed_logprobs_are_those_of_the_text_that_is_out(client: Any, server: Served) -> None:
    tokens: list[str] = []
    text = ""
    for chunk in chat(client, server, "s", logprobs=True, stop="STOP", stream=True):
        for choice in chunk.choices:
            tokens += [token.token for token in (choice.logprobs.content if choice.logprobs else [])]
            text += choice.delta.content or ""
    assert (text, tokens) == ("one two ", ["one t", "wo ST"])


def test_completions_take_text_several_texts_and_token_ids(client: Any, server: Served) -> None:
    ids = [ord("x"), ord("h") - ord("!")]  # the byte tokenizer numbers from `!`
    for prompt, texts in [("say h", [FOX]), (["h", "u"], [FOX, "café 🙂!!"]), (ids, [FOX]), ([ids, ids], [FOX, FOX])]:
        answer = client.completions.create(model=server.model, prompt=prompt, temperature=0, max_tokens=20)
        assert [choice.text for choice in answer.choices] == texts
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")


def test_completions_stream_with_logprobs(client: Any, server: Served, refused: Refused) -> None:
    asked = {"model": server.model, "prompt": "h", "temperature": 0, "logprobs": 1, "max_tokens": 20}
    if refused("top_logprobs", client.completions.create, **asked):
        return
    whole = client.completions.create(**asked).choices[0].logprobs
    assert whole.tokens == ["The", " quick", " brown", " fox"] and whole.text_offset == [0, 3, 9, 15]
    assert all(list(top) == [token] for top, token in zip(whole.top_logprobs, whole.tokens, strict=True))
    chunks = list(client.completions.create(**asked, stream=True))
    assert [t for c in chunks for x in c.choices if x.logprobs for t in x.logprobs.tokens] == whole.tokens
    assert streamed(chunks)[:2] == ({0: FOX}, {0: "stop"})


def test_a_completion_without_a_budget_has_sixteen_tokens(client: Any, server: Served) -> None:
    answer = client.completions.create(model=server.model, prompt="e", temperature=0)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_text_parts_names_and_the_developer_role_are_read(client: Any, server: Served) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "h"}]},
    ]
    assert client.chat.completions.create(model=server.model, messages=messages, temperature=0).choices[0].message.content == FOX


def test_model_ids_differ_in_case_only_by_name(client: Any, server: Served) -> None:
    answer = client.chat.completions.create(model=server.model.upper(), messages=say("h"), temperature=0)
    assert answer.model == server.model


def test_what_clients_of_today_send_along_is_accepted(client: Any, server: Served) -> None:
    more = {"user": "ann", "stream_options": {"include_usage": False}, "metadata": {"a": "b"}, "store": False, "logit_bias": {}}
    assert chat(client, server, "h", **more, extra_body={"a_field_of_tomorrow": 1}).choices[0].message.content == FOX


def test_an_answer_held_to_a_schema_is_of_that_schema(client: Any, server: Served, refused: Refused) -> None:
    if refused("json_schema", chat, client, server, "h", response_format={"type": "json_object"}):
        return
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "kind", "strict": True, "schema": schema}}
    answer = chat(client, server, "h", response_format=wanted, max_tokens=200)
    assert json.loads(answer.choices[0].message.content)["kind"] in ("a", "b")
    answer = chat(client, server, "j", response_format={"type": "json_object"}, max_tokens=50)
    assert json.loads(answer.choices[0].message.content) == {"answer": 42}
