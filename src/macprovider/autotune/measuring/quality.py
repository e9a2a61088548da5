"""Whether a KV setting answers as the unquantised cache does: greedy agreement and paired divergence, by HTTP alone.

Perplexity cannot tell 4 bits from 16 at sample sizes that anybody can pay; two things can, on a few prompts. *Agreement*: the
share of prompts whose greedy answer is the same, token by token. *Divergence*: at every position up to and with the first
difference both servers stand behind the same text, so their next-token distributions can be compared in pairs. A server tells
only its most likely tokens; all others are counted as one, which makes the divergence a lower bound (log-sum inequality).
"""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from macprovider.autotune.measuring.prompts import MARGIN, Sizing, ceiling, prompt
from macprovider.autotune.measuring.request import HOST
from macprovider.autotune.watch import SLICE_S, Watch

PROMPTS = 12
ANSWER_TOKENS = 32
TOP = 20
"""As many of the most likely tokens as the interface gives."""
FIRST_PROMPT = 2_000_000
FILL = 0.9
"""Share of the target context that a prompt takes, but for the answer."""
FACT_CHARACTERS = 120
"""More than a fact and the question for it take; their numbers are many tokens for their length."""
_TINY = 1e-12

Shares = Mapping[str, float]
"""Natural log-probabilities of the most likely next tokens, by their text."""


@dataclass(frozen=True)
class Spoken:
    """One greedy answer: its tokens, and at each of them what else could have come (empty where the engine does not tell)."""

    tokens: tuple[str, ...]
    shares: tuple[Shares, ...] = ()


@dataclass(frozen=True)
class Quality:
    """One KV setting against the unquantised cache. same: prompts with the same answer. kept: share of the tokens before the first
    difference. kl: nats per compared token, a lower bound, None where the engine tells no probabilities.
    """

    prompts: int
    same: int
    kept: float
    kl: float | None
    compared: int

    @property
    def agreement(self) -> float:
        return self.same / self.prompts

    def words(self) -> str:
        """`10 of 12 greedy answers the same, KL at least 0.0021 nats over 371 tokens`"""
        divergence = "KL not told by the engine" if self.kl is None else f"KL at least {self.kl:.4f} nats over {self.compared} tokens"
        return f"{self.same} of {self.prompts} greedy answers the same, {divergence}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"agreement": self.agreement}


@dataclass(frozen=True)
class QualityLimits:
    """What a setting must reach: the share of equal answers, and nats per token where the engine tells them."""

    min_agreement: float
    max_kl: float

    def refusal(self, quality: Quality) -> str:
        """Why the setting does not pass, "" when it does."""
        if quality.agreement >= self.min_agreement and (quality.kl is None or quality.kl <= self.max_kl):
            return ""
        wanted = f"wanted are {self.min_agreement:g} of them and at most {self.max_kl:g} nats"
        return f"quality below the gate: {quality.words()}; {wanted}"


def compare(reference: Sequence[Spoken], other: Sequence[Spoken]) -> Quality:
    """Answers to the same prompts in the same order. Raises ValueError for different numbers of them, or none."""
    if len(reference) != len(other) or not reference:
        raise ValueError(f"{len(reference)} and {len(other)} answers cannot be compared in pairs")
    same, kept, total, divergences = 0, 0, 0, []
    for one, two in zip(reference, other, strict=True):
        common = _common(one.tokens, two.tokens)
        same += one.tokens == two.tokens
        kept += common
        total += max(len(one.tokens), len(two.tokens))
        pairs = zip(one.shares[: common + 1], two.shares[: common + 1], strict=False)
        divergences += [divergence(p, q) for p, q in pairs if p and q]
    kl = sum(divergences) / len(divergences) if divergences else None
    return Quality(len(reference), same, kept / total if total else 1.0, kl, len(divergences))


def divergence(p: Shares, q: Shares) -> float:
    """KL(P || Q) in nats of the distributions coarsened to the tokens that both name, and one bin for all others; at least 0."""
    named = p.keys() & q.keys()
    found = sum(math.exp(p[token]) * (p[token] - q[token]) for token in named)
    rest_p, rest_q = (max(_TINY, 1 - sum(math.exp(x[token]) for token in named)) for x in (p, q))
    return max(0.0, found + rest_p * math.log(rest_p / rest_q))


def quality_answer(target_context: int) -> int:
    """Tokens of an answer: 32, and of a small context no more than a quarter."""
    return min(ANSWER_TOKENS, max(1, target_context // 4))


def quality_prompts(sizing: Sizing, target_context: int, count: int = PROMPTS) -> list[str]:
    """Prompts that fill the target context: every second one has a fact in its middle that is asked for at its end, where a prompt
    has room for that.
    """
    most = ceiling(target_context, quality_answer(target_context))
    room = min(FILL * most, max(1, most - 2 * MARGIN)) * sizing.characters_per_token
    texts = []
    for number in range(count):
        asks = number % 2 == 1 and room >= 2 * FACT_CHARACTERS
        text = prompt(FIRST_PROMPT + number, int(room) - (FACT_CHARACTERS if asks else 0))
        if asks:
            words = text.split()
            fact = f"The number of room {number} is {7919 * (number + 3) % 9000 + 1000}."
            words.insert(len(words) // 2, fact)
            text = f"{' '.join(words)} What is the number of room {number}?"
        texts.append(text)
    return texts


def speak(port: int, model: str, text: str, answer_tokens: int, timeout_s: float) -> Spoken:
    """Ask for one greedy answer with its probabilities; with fewer of them, or without, where the engine refuses to tell. Raises
    OSError with the reason when there is no answer.
    """
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": answer_tokens, "temperature": 0}
    for told in ({"logprobs": True, "top_logprobs": TOP}, {"logprobs": True}, {}):
        status, answer = _post(port, body | told, timeout_s)
        if status != 400:
            break
    if status != 200:
        raise OSError(f"HTTP {status}")
    try:
        return spoken(answer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise OSError(f"an answer that is no chat completion ({type(error).__name__}: {error})") from error


def speak_all(port: int, model: str, texts: Sequence[str], answer_tokens: int, timeout_s: float, watch: Watch) -> list[Spoken]:
    """One answer for each text. Raises as `speak`, and what `watch` raises when the run has to end."""
    found: list[Spoken] = []
    failed: list[OSError] = []

    def ask(text: str) -> None:
        try:
            found.append(speak(port, model, text, answer_tokens, timeout_s))
        except OSError as error:
            failed.append(error)

    for text in texts:
        asking = threading.Thread(target=ask, args=(text,), daemon=True)
        asking.start()
        while asking.is_alive():
            watch.check()
            asking.join(SLICE_S)
        if failed:
            raise failed[0]
    return found


def spoken(answer: Mapping[str, Any]) -> Spoken:
    """A chat completion as tokens and shares; its characters stand for tokens where the answer has no probabilities."""
    choice = answer["choices"][0]
    told = (choice.get("logprobs") or {}).get("content") or []
    if not told:
        return Spoken(tuple(choice["message"].get("content") or ""))
    return Spoken(tuple(map(_name, told)), tuple(_shares(entry.get("top_logprobs") or []) for entry in told))


def _shares(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in entries:  # two tokens may have the same bytes
        name, share = _name(entry), float(entry["logprob"])
        found[name] = share if name not in found else math.log(math.exp(found[name]) + math.exp(share))
    return found


def _name(entry: Mapping[str, Any]) -> str:
    """A token by its bytes: texts of half a character are all alike."""
    return bytes(entry["bytes"]).hex() if entry.get("bytes") else str(entry["token"])


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    for place, (left, right) in enumerate(zip(one, two, strict=False)):
        if left != right:
            return place
    return min(len(one), len(two))


def _post(port: int, body: Mapping[str, Any], timeout_s: float) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(" ".join(f"{type(error).__name__}: {error}".split())) from error
    finally:
        connection.close()
