"""The API answerer against a real server that fails in every way. (specs/guild.md 3.7, 6.4, 10.1 no. 9 and 14)"""

from __future__ import annotations

import socket
from typing import Any

import pytest

from guild.evaluation.api import ApiAnswerer, ApiError, api_key, base_url, choose_model, served_models
from helpers.guild_evaluation import Chat, chat_server, said
from modelwright.clock import ManualClock
from modelwright.errors import UsageError

PROMPT = "Today is 2026-01-01. You are happy. You enjoy helping others."


def _answerer(chat: Chat, **more: Any) -> ApiAnswerer:
    return ApiAnswerer(chat.url, "m", PROMPT, clock=ManualClock(), timeout_s=20, **more)


def test_item_19_every_request_names_its_model_and_carries_the_dated_prompt_once() -> None:
    with chat_server(Chat(lambda body: said(body["messages"][-1]["content"].upper()))) as chat:
        replies = _answerer(chat, key="secret").answer(["a", "b", "c"], max_new_tokens=9)
        assert [reply.text for reply in replies] == ["A", "B", "C"]
    for body, headers in zip(chat.seen, chat.headers, strict=True):
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 9)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == PROMPT
        assert {name.lower(): value for name, value in headers.items()}["x-api-key"] == "secret"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said(""), "empty"),
        (said(None), "empty"),
        (said("  \n"), "empty"),
        ((400, {"error": {"message": "no such model"}}, {}), "answered 400: no such model"),
        ((401, {"detail": "a key is needed"}, {}), "answered 401: a key is needed"),
        ((200, b"<html>", {}), "no JSON"),
        ((200, [], {}), "a list"),
        ((200, {"choices": []}, {}), "no choices"),
        ((200, {"choices": [{"message": {"content": 7}}]}, {}), "a int"),
        ((302, {}, {"Location": "http://127.0.0.1:1/"}), "answered 302"),
        ((503, {}, {}), "answered 503"),
    ],
)
def test_an_empty_or_failed_request_is_no_result(answer: tuple[int, Any, dict[str, str]], why: str) -> None:
    with chat_server(Chat(lambda body: answer)) as chat:
        (reply,) = _answerer(chat, tries=2).answer(["a"])
    assert reply.text is None
    assert why in reply.note


def test_what_may_pass_is_asked_again_a_bounded_number_of_times() -> None:
    codes = [503, 429, 200]
    with chat_server(Chat(lambda body: said("yes") if (code := codes.pop(0)) == 200 else (code, {}, {"Retry-After": "7"}))) as chat:
        answerer = _answerer(chat)
        (reply,) = answerer.answer(["a"])
        assert reply.text == "yes"
        assert answerer.clock.monotonic() == 14.0  # waited as long as it was asked to, on the test's clock
        codes[:] = [500] * 10
        (reply,) = answerer.answer(["a"])
        assert reply.text is None
        assert len(codes) == 7


def test_a_cut_answer_says_so_and_counts() -> None:
    with chat_server(Chat(lambda body: said("half", "length"))) as chat:
        (reply,) = _answerer(chat).answer(["a"], max_new_tokens=3)
    assert (reply.text, reply.note) == ("half", "cut off after 3 tokens")


def test_a_dead_address_gives_no_results_and_cannot_be_chosen_from() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answerer = ApiAnswerer(url, "m", PROMPT, clock=ManualClock())
        assert [reply.text for reply in answerer.answer(["a", "b"])] == [None, None]
        with pytest.raises(ApiError, match="does not answer"):
            choose_model(url, None, "m")


def test_the_model_is_the_named_one_or_the_only_one() -> None:
    with chat_server(Chat(lambda body: said(""), models=[{"id": "a"}, {"id": "b", "path": "/x/checkpoint-1200-20260101-0900"}])) as chat:
        assert choose_model(chat.url, None, "b").step == 1200
        with pytest.raises(UsageError, match="serves a, b"):
            choose_model(chat.url, None, None)
        with pytest.raises(UsageError, match="found 'c'"):
            choose_model(chat.url, None, "c")
        chat.models[1:] = []
        assert choose_model(chat.url, None, None).id == "a"
        chat.key = "secret"
        with pytest.raises(ApiError, match="401: a key is needed"):
            served_models(chat.url, None)
        assert served_models(chat.url, "secret")[0].step is None


def test_keys_come_from_the_environment_and_addresses_are_checked() -> None:
    assert api_key({}) is None
    assert api_key({"INFERENCE_READ_KEY": " ", "INFERENCE_ADMIN_KEY": "b"}) == "b"
    assert api_key({"INFERENCE_READ_KEY": "a", "INFERENCE_ADMIN_KEY": "b"}) == "a"
    assert base_url("http://h:1/v1/") == base_url("http://h:1") == "http://h:1/v1"
    with pytest.raises(UsageError, match="ftp"):
        base_url("ftp://h")
    assert "secret" not in repr(ApiAnswerer("http://h", "m", PROMPT, "secret"))
