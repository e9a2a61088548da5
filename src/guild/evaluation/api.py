"""Asking a model behind an OpenAI-compatible chat endpoint: the model is named, the key comes from the environment, retries are bounded.

An empty or failed request is no result. How sure the model was comes from the log-probabilities of its answer's tokens, where the server
tells them; how well it knew the golden answer it cannot tell: no chat endpoint gives probabilities of a text that it did not make.
(specs/guild.md 3.7, 6.4, 8.2, 10.1 no. 9 and 14)
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Any

from guild.evaluation.answerers import MAX_NEW_TOKENS, Reply, confidence_of
from guild.naming import checkpoint_step
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import ModelwrightError, UsageError

KEYS = ("INFERENCE_READ_KEY", "INFERENCE_ADMIN_KEY")
"""Environment variables that may hold the key, the first that is set counts. (8.2)"""
TRIES = 3
BACKOFF_S = 0.5
LONGEST_WAIT_S = 10.0
MOST_BYTES = 16 * 2**20
"""Of one answer of the server."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP codes after which the same request may succeed."""
REFUSING = (400, 403, 422, 501)
"""HTTP codes by which a server may refuse log-probabilities alone."""


class ApiError(ModelwrightError):
    """The endpoint cannot be used. `code`: its HTTP code, None when it did not answer. `wait_s`: what its `Retry-After` asks for."""

    def __init__(self, message: str, code: int | None = None, wait_s: float | None = None) -> None:
        self.code, self.wait_s = code, wait_s
        super().__init__(message)


@dataclass(frozen=True)
class ServedModel:
    """A model that the endpoint names. path: its folder over there, "" when it does not say."""

    id: str
    path: str = ""

    @property
    def step(self) -> int | None:
        """Its training step, when folder or name is a checkpoint's."""
        names = (PurePosixPath(self.path).name, PurePosixPath(self.id).name)
        return next((step for name in names if (step := checkpoint_step(name)) is not None), None)


@dataclass
class ApiAnswerer:
    """A model behind `url` (with or without `/v1`). model: its id there. system_prompt: dated, holds the base prompt. key: None for none.

    parallel: requests at a time. timeout_s: for one request. tries: requests for one question at most, when the fault may pass.
    """

    url: str
    model: str
    system_prompt: str
    key: str | None = field(default=None, repr=False)
    parallel: int = 4
    timeout_s: float = 120.0
    tries: int = TRIES
    clock: Clock = SYSTEM_CLOCK
    _tells_probabilities: bool = field(default=True, repr=False)

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, golden: Sequence[str] | None = None) -> list[Reply]:
        """One reply for each prompt, at temperature 0; never raises for what the endpoint does. golden: with it the server is asked for
        log-probabilities, and a reply has a confidence when it gave them; never a loss."""
        with ThreadPoolExecutor(max_workers=max(1, self.parallel)) as pool:
            return list(pool.map(lambda prompt: self._ask(prompt, max_new_tokens, golden is not None), prompts))

    def close(self) -> None:
        """Nothing is held between requests."""

    def _ask(self, prompt: str, max_new_tokens: int, scored: bool) -> Reply:
        messages = [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_new_tokens, "stream": False}
        started = self.clock.monotonic()
        for attempt in range(1, self.tries + 1):
            try:
                answer = self._complete(body, scored)
                text, cut = _content(answer)
            except ApiError as error:
                if attempt == self.tries or (error.code is not None and error.code not in PASSING):
                    return Reply(None, self.clock.monotonic() - started, str(error))
                asked = error.wait_s if error.wait_s is not None else BACKOFF_S * 2 ** (attempt - 1)
                self.clock.sleep(min(asked, LONGEST_WAIT_S))
                continue
            seconds = self.clock.monotonic() - started
            if not text.strip():
                return Reply(None, seconds, "the reply is empty")
            sure = _confidence(answer) if scored else None
            return Reply(text, seconds, f"cut off after {max_new_tokens} tokens" if cut else "", sure)
        raise AssertionError("tries is at least 1")

    def _complete(self, body: dict[str, Any], scored: bool) -> dict[str, Any]:
        """The server's answer, with log-probabilities where it gives them; one that refuses them is not asked for them again."""
        address = f"{base_url(self.url)}/chat/completions"
        refused = False
        if scored and self._tells_probabilities:
            try:
                return call(address, self.key, {**body, "logprobs": True}, self.timeout_s)
            except ApiError as error:
                if error.code not in REFUSING:
                    raise
                refused = True
        answer = call(address, self.key, body, self.timeout_s)  # raises when the fault lies elsewhere
        if refused:
            self._tells_probabilities = False
        return answer


def api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """The inference server's key in the environment; None when none is set."""
    env = os.environ if environ is None else environ
    return next((env[name].strip() for name in KEYS if env.get(name, "").strip()), None)


def base_url(url: str) -> str:
    """The address with `/v1`. Raises UsageError for what is no HTTP address."""
    plain = url.strip().rstrip("/")
    if not plain.startswith(("http://", "https://")):
        raise UsageError(f"the inference address: found {url!r}; allowed: a server's address with http or https and its port.")
    return plain if plain.endswith("/v1") else f"{plain}/v1"


def served_models(url: str, key: str | None, *, timeout_s: float = 10.0) -> list[ServedModel]:
    """The models that the endpoint serves: by `/v1/models`, or `/models/info` of the guild's inference API. Raises ApiError."""
    base = base_url(url)
    try:
        listed = call(f"{base}/models", key, None, timeout_s).get("data")
    except ApiError as error:
        if error.code != 404:
            raise
        listed = call(f"{base.removesuffix('/v1')}/models/info", key, None, timeout_s).get("models")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    found = [(entry.get("id") or entry.get("model_id"), entry.get("path")) for entry in entries]
    return [ServedModel(str(id), str(path or "")) for id, path in found if id]


def choose_model(url: str, key: str | None, wanted: str | None) -> ServedModel:
    """The model to ask: the one that is named, else the only one that is served. Raises ApiError, or UsageError when that leaves open
    which one, or none."""
    models = served_models(url, key)
    names = ", ".join(model.id for model in models) or "none"
    if wanted is None:
        if len(models) != 1:
            raise UsageError(f"--model: found nothing, and {url} serves {names}; allowed: one of them. Name it.")
        return models[0]
    found = next((model for model in models if model.id == wanted), None)
    if found is None:
        raise UsageError(f"--model: found {wanted!r}; allowed: what {url} serves: {names}.")
    return found


def call(url: str, key: str | None, body: Mapping[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """One request, GET without a body and POST with one; the JSON object of its answer. Raises ApiError."""
    headers = {"Accept": "application/json"}
    if key:
        headers |= {"X-API-Key": key, "Authorization": f"Bearer {key}"}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    # an address is reached directly, and a redirect is not followed: it would take the key elsewhere
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=timeout_s) as answer:
            raw = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ApiError(f"{url} answered {error.code}{_told(error)}.", error.code, _retry_after(error)) from error
    except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise ApiError(f"{url} does not answer ({getattr(error, 'reason', None) or error or type(error).__name__}).") from error
    if len(raw) > MOST_BYTES:
        raise ApiError(f"{url} answered with more than {MOST_BYTES} bytes.", 200)
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ApiError(f"{url} answered with something that is no JSON.", 200) from error
    if not isinstance(content, dict):
        raise ApiError(f"{url} answered with a {type(content).__name__}; allowed: a JSON object.", 200)
    return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:  # type: ignore[override]
        return None


def _content(answer: Mapping[str, Any]) -> tuple[str, bool]:
    """(text of the first choice, whether it was cut at the token limit). Raises ApiError when the answer has no such thing."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ApiError("the answer has no choices[0].message.content", 200) from error
    if text is not None and not isinstance(text, str):
        raise ApiError(f"the content of the answer is a {type(text).__name__}, no text", 200)
    return text or "", choice.get("finish_reason") == "length"


def _confidence(answer: Mapping[str, Any]) -> float | None:
    """Of the log-probabilities that the first choice lists; None when it lists none, or something else. Raises nothing."""
    told = answer["choices"][0].get("logprobs")
    entries = told.get("content") if isinstance(told, dict) else None
    found = [entry.get("logprob") if isinstance(entry, dict) else None for entry in entries] if isinstance(entries, list) else []
    numbers = [float(one) for one in found if isinstance(one, int | float) and not isinstance(one, bool)]
    return confidence_of(numbers) if len(numbers) == len(found) else None


def _told(error: urllib.error.HTTPError) -> str:
    """What the server says about an error, in a few words."""
    try:
        content = json.loads(error.read(4096))
    except (ValueError, OSError, HTTPException):
        return ""
    told = content.get("error", content.get("detail")) if isinstance(content, dict) else None
    told = told.get("message") if isinstance(told, dict) else told
    return f": {' '.join(told.split())[:300]}" if isinstance(told, str) and told.strip() else ""


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    with contextlib.suppress(ValueError):  # it may be a date
        return max(0.0, float(error.headers.get("Retry-After") or ""))
    return None
