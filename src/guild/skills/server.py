"""The HTTP server of one skill. (specs/guild.md 2.4)

    GET  /health                      {"status": "ok"}
    GET  /info                        id, name, version, generator
    GET  /levels                      what every level asks
    GET  /eval?level=N[&count=C]      held-out samples, the level's fixed set
    POST /generate {level,count,seed} {count, level, seed, level_info, samples}

It listens on this machine's own address unless told otherwise, checks the Host and Origin of every request, reads no file and no
secret, and changes nothing; so nobody needs a key. Every error is `{"error": {"code", "message", "faults"}}`, all faults at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from guild.skills.contract import Sample, Skill
from modelwright.errors import Fault, ModelwrightError
from modelwright.tokens import check_host_origin

MOST_SAMPLES = 100_000
"""In one answer."""
DEFAULT_COUNT = 100
DEFAULT_EVALUATION = 20
LONGEST_BODY = 64 * 1024  # bytes of a request
SAMPLES_PER_CHUNK = 1000
SEED_BITS = 63
_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_long",
    421: "wrong_host",
    500: "defect",
    503: "ending",
}
_EVALUATION_FIELDS = ("level", "count")
_GENERATION_FIELDS = ("level", "count", "seed")
R = TypeVar("R")
log = logging.getLogger("guild.skills")


class _Refused(Exception):
    def __init__(self, status: int, faults: Sequence[str]) -> None:
        self.status, self.faults = status, list(faults)


class SkillService:
    """One skill behind HTTP. Batches are made one after the other, away from the event loop, so that /health answers meanwhile."""

    def __init__(self, skill: Skill) -> None:
        self.skill = skill
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok", "skill": self.skill.id})

    async def info(self, request: Request) -> Response:
        skill = self.skill
        return _json(
            {
                "id": skill.id,
                "name": skill.name,
                "version": skill.version,
                "description": skill.description,
                "max_level": skill.max_level,
                "generator_id": skill.generator_id,
                "generator_version": skill.version,
                "most_samples": MOST_SAMPLES,
                **getattr(skill, "info", dict)(),  # what a skill adds about itself
            }
        )

    async def levels(self, request: Request) -> Response:
        levels = [self.skill.level_info(level) for level in range(1, self.skill.max_level + 1)]
        return _json({"skill": self.skill.id, "max_level": self.skill.max_level, "levels": levels})

    async def evaluation(self, request: Request) -> Response:
        faults: list[str] = []
        asked = {}
        for name in dict.fromkeys(key for key, _ in request.query_params.multi_items()):
            values = request.query_params.getlist(name)
            if len(values) > 1:
                faults.append(Fault(name, f"{len(values)} values", "one value").sentence())
            asked[name] = int(values[0]) if _is_number(values[0]) else values[0]
        level, count, _ = self._checked(asked, _EVALUATION_FIELDS, DEFAULT_EVALUATION, faults)
        samples = await self._work(lambda: self.skill.evaluation(level, count))
        return self._batch(level, samples, {})

    async def generate(self, request: Request) -> Response:
        body = await _body(request)
        faults: list[str] = []
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _Refused(400, [Fault("body", f"no JSON ({error})", '{"level": N, "count": C, "seed": S}').sentence()]) from error
        if not isinstance(asked, dict):
            raise _Refused(400, [Fault("body", type(asked).__name__, '{"level": N, "count": C, "seed": S}').sentence()])
        level, count, seed = self._checked(asked, _GENERATION_FIELDS, DEFAULT_COUNT, faults)
        samples = await self._work(lambda: self.skill.generate(level, count, seed))
        return self._batch(level, samples, {"seed": seed})

    def _checked(self, asked: Mapping[str, Any], allowed: Sequence[str], count: int, faults: list[str]) -> tuple[int, int, int]:
        """(level, count, seed); a seed is drawn when none is given, and the answer tells it. Raises _Refused with every fault."""
        for name in asked:
            if name not in allowed:
                faults.append(Fault(name[:60], "an unknown field", f"the fields {', '.join(allowed)}").sentence())
        most = 1 << SEED_BITS
        ranges = {"level": (1, self.skill.max_level), "count": (1, MOST_SAMPLES), "seed": (-most, most - 1)}
        defaults = {"count": count, "seed": random.SystemRandom().getrandbits(53)}
        values = []
        for name, (least, greatest) in ranges.items():
            value = asked.get(name, defaults.get(name))
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
                found = "nothing" if value is None else repr(value)[:60]
                faults.append(Fault(name, found, f"a whole number from {least} to {greatest}").sentence())
                value = 0
            values.append(value)
        if faults:
            raise _Refused(400, faults)
        return values[0], values[1], values[2]

    async def _work(self, make: Callable[[], R]) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, make)
        except asyncio.CancelledError as error:  # only the end of the server cancels a request
            raise _Refused(503, ["The server is ending and this batch was not made; ask again when it is back."]) from error

    def _batch(self, level: int, samples: list[Sample], more: Mapping[str, Any]) -> Response:
        head = {"count": len(samples), "level": level, **more, "level_info": self.skill.level_info(level)}
        if len(samples) <= SAMPLES_PER_CHUNK:
            return _json({**head, "samples": [sample.as_dict() for sample in samples]})
        return StreamingResponse(_chunks(head, samples), media_type="application/json")


async def _chunks(head: Mapping[str, Any], samples: list[Sample]) -> AsyncIterator[bytes]:
    yield orjson.dumps(head)[:-1] + b',"samples":['
    for start in range(0, len(samples), SAMPLES_PER_CHUNK):
        part = orjson.dumps([sample.as_dict() for sample in samples[start : start + SAMPLES_PER_CHUNK]])[1:-1]
        yield (b"," if start else b"") + part
    yield b"]}"


def make_app(skill: Skill, bind: tuple[str, int], allowed_hosts: Sequence[str] = ()) -> Any:
    """The ASGI application. bind: address and port it listens on, which the Host of a request must name; allowed_hosts: further names."""
    service = SkillService(skill)
    routes = [
        Route("/health", service.health, methods=["GET"]),
        Route("/info", service.info, methods=["GET"]),
        Route("/levels", service.levels, methods=["GET"]),
        Route("/eval", service.evaluation, methods=["GET"]),
        Route("/generate", service.generate, methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {404: _not_found, 405: _wrong_method, _Refused: _refused, ModelwrightError: _unusable, Exception: _defect}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return _Guard(app, bind, allowed_hosts)


class _Guard:
    """Refuses requests that name another host, or come from another site's page."""

    def __init__(self, app: Any, bind: tuple[str, int], allowed_hosts: Sequence[str]) -> None:
        self._app, self._bind, self._allowed = app, bind, tuple(allowed_hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin")}
            decision = check_host_origin(headers.get(b"host"), headers.get(b"origin"), self._bind, self._allowed)
            if not decision.allowed:
                await _error(decision.status, [decision.reason[:1].upper() + decision.reason[1:] + "."])(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _body(request: Request) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > LONGEST_BODY:
            raise _Refused(413, [Fault("body", f"more than {LONGEST_BODY} bytes", f"at most {LONGEST_BODY} bytes").sentence()])
        parts.append(part)
    return b"".join(parts)


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) <= 20


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers=dict(headers or {}), media_type="application/json")


def _error(status: int, faults: Sequence[str], headers: Mapping[str, str] | None = None) -> Response:
    document = {"error": {"code": _CODES.get(status, "error"), "message": " ".join(faults), "faults": list(faults)}}
    return _json(document, status, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, [f"There is nothing at {request.url.path[:200]}; there are /health, /info, /levels, /eval and /generate."])


async def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
    return _error(405, [f"{request.url.path} does not answer {request.method}; allowed: {allowed}."], {"Allow": allowed})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return _error(error.status, error.faults)


async def _unusable(request: Request, error: Exception) -> Response:
    return _error(400, str(error).splitlines())


async def _defect(request: Request, error: Exception) -> Response:
    log.error("defect", exc_info=error)
    return _error(500, ["The skill failed on this request; the server's log says how."])
