"""Between a running server and its session: the server's facts as a `hello`, its events as an answer's chunks."""

from __future__ import annotations

import contextlib
import logging
import socket
import uuid
from collections.abc import AsyncGenerator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import orjson

from macprovider.coordinator.messages import Endpoint, Hello, State
from macprovider.coordinator.provider import Load, RequestRefused
from macprovider.coordinator.session import Membership, Timing
from macprovider.serving.errors import ApiError
from macprovider.serving.exchange import ClientGone
from macprovider.serving.plan import Api
from macprovider.serving.service import Service, model_key
from macprovider.settings_model import ServeSettings
from modelwright import __version__
from modelwright.errors import ConfigError, Fault, ModelwrightError

MARGIN_BYTES = 1 << 16
"""What a request's envelope may add to its body."""
APIS: dict[Endpoint, Api] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_log = logging.getLogger("macprovider.coordinator")


def make_session(settings: ServeSettings, service: Service, timing: Timing | None = None) -> Membership:
    """The session for a server whose model answers; not started. `settings.coordinator_url` must be set.

    Raises ConfigError for a token that no HTTP header can carry.
    """
    url = settings.coordinator_url
    assert url is not None
    token = settings.provider_token.get_secret_value() if settings.provider_token else ""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError([Fault("provider_token", "a token with spaces or other characters than printable ASCII", "the token alone")])
    if token and urlsplit(url).scheme == "ws" and urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        _log.warning("the provider token goes over an unencrypted connection; use a wss:// address for the coordinator")
    max_bytes = settings.max_request_body_bytes + MARGIN_BYTES
    return Membership(url, ServedModel(settings, service), token=token, max_bytes=max_bytes, timing=timing)


class ServedModel:
    """The server as a `Provider`."""

    def __init__(self, settings: ServeSettings, service: Service) -> None:
        self._settings, self._service = settings, service
        self.provider_id = settings.provider_id or str(uuid.uuid4())

    def hello(self) -> Hello:
        facts, capacity = self._service.facts, self._service.capacity
        return Hello(
            tier=capacity.tier.name,
            provider_id=self.provider_id,
            hostname=socket.gethostname(),
            model_id=self._service.model,
            model_params_b=self._billions,
            ram_gb=capacity.ram_gb,
            max_context_tokens=facts.context,
            max_concurrency=facts.slots,
            throughput_tps_estimate=round(self._service.tps, 2),
            binary_version=__version__,
            endpoint_url=self._settings.endpoint_url,
        )

    @cached_property
    def _billions(self) -> float | None:
        from modelwright.loading import read_config, resolve_model
        from modelwright.model_shape import ModelShape

        try:
            return round(ModelShape.from_config(read_config(resolve_model(self._settings.model))).parameters() / 1e9, 6)
        except ModelwrightError:  # an engine's own format, such as GGUF
            return None

    def load(self) -> Load:
        service = self._service
        running, waiting = service.admission.running, service.admission.waiting
        state: State = "ready"
        if service.draining:
            state = "draining"
        elif service.engine_error:
            state = "degraded"
        elif running >= service.facts.slots:
            state = "busy"
        return Load(state, running, waiting, round(max(service.tps, 0.0), 2))

    def refusal(self, model: str | None, context_tokens: int | None) -> str:
        service = self._service
        if model is not None and model_key(model) != model_key(service.model):
            return f"This provider serves {service.model}."
        if context_tokens is not None and context_tokens > service.facts.context:
            return f"This provider holds {service.facts.context} tokens of context."
        if service.draining:
            return "This provider is draining."
        admission = service.admission
        if admission.running >= admission.slots and admission.waiting >= admission.depth:
            return "Every slot computes and the queue is full."
        return ""

    async def answer(self, endpoint: Endpoint, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """As `POST endpoint` with `stream: true` would answer, counted like it."""
        service = self._service
        service.counters.requests += 1
        try:
            exchange = await service.open(APIS[endpoint], {**body, "stream": True})
        except ApiError as error:
            service.refused(error)
            raise RequestRefused(error.envelope()["error"]) from error
        try:
            async for events in service.events(exchange):
                for data in _documents(events):
                    if "error" in data:
                        raise RequestRefused(data["error"])
                    yield data
        except ClientGone as error:
            raise RequestRefused(
                {"message": "The answer was cancelled.", "type": "server_error", "param": None, "code": "cancelled"}
            ) from error
        finally:
            exchange.close()

    async def warm_up(self) -> None:
        body = {"model": self._service.model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        with contextlib.suppress(RequestRefused):  # a server with a full queue is warm
            async for _ in self.answer("/v1/completions", body):
                pass


def _documents(events: bytes) -> list[dict[str, Any]]:
    """The JSON of whole SSE events, without `[DONE]`."""
    lines = [line[6:] for line in events.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(line) for line in lines if line != b"[DONE]"]
