"""The quality gate: agreement and divergence of greedy answers, worked out by hand and against whole distributions."""

from __future__ import annotations

import http.server
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macprovider.autotune.measuring.prompts import Sizing
from macprovider.autotune.measuring.quality import (
    PROMPTS,
    QualityLimits,
    Spoken,
    compare,
    divergence,
    quality_answer,
    quality_prompts,
    speak,
    spoken,
)


def logs(**shares: float) -> dict[str, float]:
    return {token: math.log(share) for token, share in shares.items()}


def test_answers_are_compared_up_to_and_with_the_first_difference() -> None:
    p, q = logs(a=0.5, b=0.3), logs(a=0.25, b=0.3)
    one = [Spoken(("a", "b", "c"), (p, p, p)), Spoken(("a", "a"), (p, p))]
    two = [Spoken(("a", "x", "c"), (p, q, q)), Spoken(("a", "a"), (p, p))]
    found = compare(one, two)
    by_hand = 0.5 * math.log(2) + 0.2 * math.log(0.2 / 0.45)
    assert (found.prompts, found.same, found.compared) == (2, 1, 4), "two positions of the first answer, both of the second"
    assert found.kept == pytest.approx(3 / 5) and found.kl == pytest.approx(by_hand / 4)
    assert found.agreement == 0.5


def test_an_engine_that_tells_no_probabilities_is_compared_by_its_answers_alone() -> None:
    found = compare([Spoken(("a", "b"))], [Spoken(("a", "c"))])
    assert found.kl is None and found.kept == 0.5 and found.same == 0
    assert QualityLimits(0.0, 0.0).refusal(found) == ""
    assert "0 of 1 greedy answers the same, KL not told by the engine" in QualityLimits(0.5, 0.0).refusal(found)


@pytest.mark.parametrize(("agreement", "kl", "passes"), [(0.5, 0.2, True), (0.6, 0.2, False), (0.5, 0.04, False)])
def test_both_limits_must_hold(agreement: float, kl: float, passes: bool) -> None:
    p, q = logs(a=0.6, b=0.4), logs(a=0.4, b=0.6)
    found = compare([Spoken(("a",), (p,)), Spoken(("a",), (p,))], [Spoken(("a",), (p,)), Spoken(("b",), (q,))])
    assert found.kl == pytest.approx((0.6 * math.log(1.5) + 0.4 * math.log(2 / 3)) / 2)
    assert (QualityLimits(agreement, kl).refusal(found) == "") is passes


weights = st.lists(st.floats(0.01, 1.0), min_size=30, max_size=30)


@given(weights, weights, st.integers(1, 30))
def test_what_is_told_of_a_distribution_never_overstates_its_divergence(left: list[float], right: list[float], told: int) -> None:
    p, q = ([weight / sum(x) for weight in x] for x in (left, right))
    whole = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    best_p, best_q = (sorted(range(30), key=lambda token: -x[token])[:told] for x in (p, q))
    found = divergence({str(t): math.log(p[t]) for t in best_p}, {str(t): math.log(q[t]) for t in best_q})
    assert 0 <= found <= whole + 1e-9
    if told == 30:
        assert found == pytest.approx(whole, abs=1e-9)


def test_a_chat_completion_becomes_tokens_by_their_bytes() -> None:
    entries = [
        {"token": "\ufffd", "bytes": [226], "logprob": -1.0},
        {"token": "\ufffd", "bytes": [130], "logprob": -2.0},
        {"token": "a", "bytes": [97], "logprob": -3.0},
        {"token": "a", "bytes": [97], "logprob": -3.0},
    ]
    answer = {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [entries[2] | {"top_logprobs": entries}]}}]}
    found = spoken(answer)
    assert found.tokens == ("61",) and set(found.shares[0]) == {"e2", "82", "61"}
    assert found.shares[0]["61"] == pytest.approx(-3.0 + math.log(2))
    assert spoken({"choices": [{"message": {"content": "hi"}, "logprobs": None}]}) == Spoken(("h", "i"))


def test_a_small_context_holds_prompt_and_answer() -> None:
    for target in (40, 64, 96):
        assert all(len(text) / 4 + quality_answer(target) <= target for text in quality_prompts(Sizing(4.0, True), target))
    assert (quality_answer(40), quality_answer(4000)) == (10, 32)


def test_prompts_fill_the_context_and_every_second_asks_for_a_fact_in_its_middle() -> None:
    texts = quality_prompts(Sizing(4.0, True), 1000)
    assert len(texts) == PROMPTS == len({text[:25] for text in texts})
    assert all(0.8 * 968 * 4 <= len(text) <= 968 * 4 for text in texts)
    for number, text in enumerate(texts):
        if number % 2:
            assert text.endswith(f"What is the number of room {number}?")
            assert 0.3 < text.index(f"The number of room {number} is") / len(text) < 0.7


@pytest.mark.parametrize(
    ("refused", "named", "shares"),
    [((), ["41", "42"], 2), (("top_logprobs",), ["41", "42"], 0), (("top_logprobs", "logprobs"), ["A", "B"], 0)],
)
def test_an_engine_is_asked_for_as_much_as_it_tells(refused: tuple[str, ...], named: list[str], shares: int) -> None:
    """Tokens are compared as tokens wherever they are told, characters where nothing is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fits = not any(body.get(field) for field in refused)
            top = [{"token": "A", "bytes": [0x41], "logprob": -0.1}] if body.get("top_logprobs") else []
            content = [{"token": chr(code), "bytes": [code], "logprob": -0.1, "top_logprobs": top} for code in (0x41, 0x42)]
            choice = {"message": {"content": "AB"}, "logprobs": {"content": content} if body.get("logprobs") else None}
            answer = json.dumps({"choices": [choice]} if fits else {"error": {}}).encode()
            self.send_response(200 if fits else 400)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = speak(server.server_address[1], "m", "text", 2, 10)
        server.shutdown()
    assert list(found.tokens) == named and sum(bool(share) for share in found.shares) == shares
