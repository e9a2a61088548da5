"""Who may call: the Host and Origin of every request, and a key when others than this machine can reach the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from macprovider.serving.errors import ApiError
from macprovider.serving.reply import send_error
from modelwright.tokens import KeyRing, Role, check_host_origin

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ASKING = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Posts that change nothing on the server; any other post needs the admin key."""
_CODES = {400: "invalid_request", 401: "unauthorized", 403: "forbidden", 421: "wrong_host"}


class Guard:
    """An ASGI layer. bind: address and port that the server listens on. keys: None lets everybody on this machine in."""

    def __init__(self, app: Any, bind: tuple[str, int], keys: KeyRing | None, allowed_hosts: Sequence[str] = ()) -> None:
        self._app, self._bind, self._keys, self._allowed = app, bind, keys, tuple(allowed_hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            refused = self._refusal(scope)
            if refused is not None:
                await send_error(send, refused)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Any) -> ApiError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin", b"authorization")}
        decision = check_host_origin(headers.get(b"host"), headers.get(b"origin"), self._bind, self._allowed)
        if decision.allowed and self._keys is not None:
            need: Role = "read" if scope["method"] in READ_METHODS or scope["path"] in ASKING else "admin"
            decision = self._keys.authorize(headers.get(b"authorization"), need)
        if decision.allowed:
            return None
        sentence = decision.reason[:1].upper() + decision.reason[1:] + "."
        extra = {"WWW-Authenticate": "Bearer"} if decision.status == 401 else None
        return ApiError(decision.status, _CODES.get(decision.status, "forbidden"), sentence, headers=extra)
