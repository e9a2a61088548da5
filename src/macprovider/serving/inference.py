"""`POST /v1/chat/completions` and `/v1/completions`: one request, its exchange, and the watch over its client."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from macprovider.serving.admission import closing
from macprovider.serving.errors import ApiError, defect
from macprovider.serving.exchange import ClientGone, Exchange
from macprovider.serving.fields import parse_document
from macprovider.serving.plan import Api
from macprovider.serving.reply import begin_stream, read_body, send_body, send_error
from macprovider.serving.service import Service
from macprovider.serving.stream import DirectWriter

log = logging.getLogger("macprovider.requests")


class Inference:
    """An ASGI application for one of the two APIs."""

    def __init__(self, service: Service, api: Api) -> None:
        self._service, self._api = service, api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        service = self._service
        service.counters.requests += 1
        exchange: Exchange | None = None
        status = 200
        try:
            body = await read_body(scope, receive, service.settings.max_request_body_bytes)
            exchange = await service.open(self._api, parse_document(body), len(body))
            await self._answer(exchange, receive, send)
        except ApiError as error:
            status = error.status
            service.refused(error)
            await send_error(send, error)
        except ClientGone:
            status = 499  # the conventional status of a client that left, for the log alone
            service.counters.disconnects += 1
        except asyncio.CancelledError:
            if not service.draining or exchange is not None:
                raise
            status = 503  # the server ends while this client still sends its request
            service.refused(closing())
            await send_error(send, closing())
        except Exception:
            status = 500  # the application's own handler answers it
            service.refused(defect())
            raise
        finally:
            if exchange is not None:
                exchange.close()
            self._log(exchange, status)

    async def _answer(self, exchange: Exchange, receive: Any, send: Any) -> None:
        watch = asyncio.create_task(_close_when_gone(receive, exchange))
        try:
            if exchange.plan.parameters.stream:
                await self._stream(exchange, send)
            else:
                await send_body(send, 200, await self._service.whole(exchange))
        finally:
            watch.cancel()

    async def _stream(self, exchange: Exchange, send: Any) -> None:
        await exchange.started()  # until then an error can still have its own status
        await begin_stream(send)
        await DirectWriter(self._service.stream(exchange), exchange, send).run()

    def _log(self, exchange: Exchange | None, status: int) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        fields: dict[str, Any] = {"api": self._api, "status": status}
        if exchange is not None:
            now = self._service.clock.monotonic()
            fields |= {
                "stream": exchange.plan.parameters.stream,
                "prompt_tokens": exchange.plan.prompt_tokens,
                "cached_tokens": exchange.cached_tokens,
                "completion_tokens": exchange.completion_tokens,
                "ttft_ms": round(1000 * (exchange.first_token - exchange.arrived), 1) if exchange.first_token else None,
                "duration_ms": round(1000 * (now - exchange.arrived), 1),
                "finish": [answer.finish for answer in exchange.answers],
            }
        log.info("request", extra={"fields": fields})


async def _close_when_gone(receive: Any, exchange: Exchange) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.close()
