"""The routes of the HTTP surface. (spec 3.1)"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from macprovider.serving.admission import closing
from macprovider.serving.errors import ApiError, defect
from macprovider.serving.guard import Guard
from macprovider.serving.inference import Inference
from macprovider.serving.metrics import CONTENT_TYPE
from macprovider.serving.readback import engine_document, metrics_text
from macprovider.serving.service import Service
from modelwright.tokens import KeyRing

log = logging.getLogger("macprovider")


def make_app(service: Service, bind: tuple[str, int], keys: KeyRing | None) -> Any:
    """The ASGI application of one server. bind, keys: see `Guard`."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", Inference(service, "chat"), methods=["POST"]),
            Route("/v1/completions", Inference(service, "completion"), methods=["POST"]),
            Route("/v1/models", _page(lambda: _models(service)), methods=["GET"]),
            Route("/v1/health", _page(lambda: _health(service)), methods=["GET"]),
            Route("/v1/engine", _page(lambda: _json(engine_document(service))), methods=["GET"]),
            Route("/metrics", _page(lambda: Response(metrics_text(service), headers={"content-type": CONTENT_TYPE})), methods=["GET"]),
        ],
        exception_handlers={404: _not_found, 405: _wrong_method, Exception: _defect},
    )
    app.router.redirect_slashes = False
    return Guard(app, bind, keys, service.settings.allowed_hosts)


def _page(make: Callable[[], Response]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return make()

    return endpoint


def _models(service: Service) -> Response:
    if service.draining:
        return _error(closing())
    entry = {"id": service.model, "object": "model", "created": service.created, "owned_by": "macprovider"}
    return _json({"object": "list", "data": [entry]})


def _health(service: Service) -> Response:
    status, body = service.health()
    return _json(body, status)


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(ApiError(404, "path_not_found", f"There is nothing at {request.url.path[:200]}."))


async def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
    message = f"{request.url.path} does not answer {request.method}; allowed: {allowed}."
    return _error(ApiError(405, "method_not_allowed", message, headers={"Allow": allowed}))


async def _defect(request: Request, error: Exception) -> Response:
    log.error("defect", exc_info=error)
    return _error(defect())


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")
