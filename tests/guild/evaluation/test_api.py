"""The API answerer against a real server that fails in every way. (specs/guild.md 3.7, 6.4, 10.1 no. 9 and 14)"""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest

from guild.evaluation.api import ApiAnswerer, ApiError, api_key, base_url, choose_model, served_models
from guild.evaluation.local import LocalAnswerer
from helpers.guild_evaluation import Chat, chat_server, said
from helpers.served import served
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


def _logprobs(*shares: float) -> dict[str, Any]:
    return {"content": [{"token": "t", "logprob": math.log(share), "top_logprobs": []} for share in shares]}


def test_a_server_that_tells_its_log_probabilities_gives_a_confidence_and_never_a_loss() -> None:
    with chat_server(Chat(lambda body: said("yes", logprobs=_logprobs(0.5, 0.125) if body.get("logprobs") else None))) as chat:
        answerer = _answerer(chat)
        (plain,) = answerer.answer(["a"])
        (scored,) = answerer.answer(["a"], golden=["b"])
    assert (plain.text, plain.confidence, plain.loss) == ("yes", None, None)
    assert (scored.text, scored.confidence, scored.loss) == ("yes", pytest.approx(0.25), None)
    assert ["logprobs" in body for body in chat.seen] == [False, True]


@pytest.mark.parametrize(
    "told",
    [None, [], "sure", {"content": None}, {"content": []}, {"content": [None]}, {"content": [{"logprob": None}]}, {"content": 7},
     {"content": [{"logprob": -0.1}, {"logprob": "-0.1"}]}, {"content": [{"logprob": True}]}, {"content": [{"logprob": 3.0}]}],
)  # fmt: skip
def test_what_a_server_does_not_tell_is_not_made_up(told: Any) -> None:
    with chat_server(Chat(lambda body: said("yes", logprobs=told))) as chat:
        (reply,) = _answerer(chat).answer(["a"], golden=["b"])
    assert (reply.text, reply.confidence, reply.note) == ("yes", None, "")


def test_a_server_that_refuses_log_probabilities_is_asked_without_them_from_then_on() -> None:
    refusal = (400, {"error": {"message": "logprobs: the engine cannot do this"}}, {})
    with chat_server(Chat(lambda body: refusal if body.get("logprobs") else said("yes"))) as chat:
        replies = _answerer(chat, parallel=1).answer(["a", "b", "c"], golden=["x", "y", "z"])
    assert [(reply.text, reply.confidence) for reply in replies] == [("yes", None)] * 3
    assert ["logprobs" in body for body in chat.seen] == [True, False, False, False]


def test_a_refusal_for_another_reason_is_told_as_it_is() -> None:
    with chat_server(Chat(lambda body: (400, {"error": {"message": "no such model"}}, {}))) as chat:
        answerer = _answerer(chat, parallel=1)
        replies = answerer.answer(["a", "b"], golden=["x", "y"])
    assert all(reply.text is None and "answered 400: no such model" in reply.note for reply in replies)
    assert ["logprobs" in body for body in chat.seen] == [True, False, True, False]  # it may tell them yet


def test_our_own_server_says_the_same_confidence_as_the_model_in_this_process() -> None:
    tiny, asked = "modelwright/tiny-0.4m", ["Tell me about the old lamp and the river.", "Where is the cat?"]
    golden = ["It is old.", "In the house."]
    here = LocalAnswerer(tiny, PROMPT).answer(asked, max_new_tokens=12, golden=golden)
    with served(tiny, "--engine", "transformers") as server:
        there = ApiAnswerer(server.url, tiny, PROMPT).answer(asked, max_new_tokens=12, golden=golden)
    assert [reply.text for reply in there] == [reply.text for reply in here]
    assert [reply.confidence for reply in there] == [pytest.approx(reply.confidence, abs=1e-4) for reply in here]
    assert all(reply.confidence is not None and reply.loss is None for reply in there)


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
