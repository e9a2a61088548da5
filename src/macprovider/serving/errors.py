"""What a client is told when its request cannot be answered: a status, a code, one sentence, in OpenAI's envelope."""

from __future__ import annotations

from typing import Any

import orjson

_TYPES = {401: "authentication_error", 403: "permission_error", 413: "invalid_request_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refused or failed request.

    status: HTTP status. code: one of the codes of spec 3.1, or ours. param: the request field at fault. headers: further response
    headers, for example `Retry-After` or `Allow`.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.headers = status, code, message, param, headers or {}

    @property
    def type(self) -> str:
        """The envelope's `type`, by status."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def envelope(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """The envelope as JSON."""
        return orjson.dumps(self.envelope())


def invalid(message: str, param: str | None = None) -> ApiError:
    """400 `invalid_request`."""
    return ApiError(400, "invalid_request", message, param)


def invalid_tools(message: str, param: str = "tools") -> ApiError:
    """400 `invalid_tools`."""
    return ApiError(400, "invalid_tools", message, param)


def defect() -> ApiError:
    """500 `internal_error`, for what nobody foresaw; the log holds the rest."""
    return ApiError(500, "internal_error", "The server met a defect of its own; its log has the details.")


def wrong(name: str, found: Any, allowed: str) -> ApiError:
    """400 for one field: what was found and what is allowed."""
    return invalid(f"{name}: found {shown(found)}; allowed: {allowed}.", name)


def shown(value: Any) -> str:
    """A value as the client wrote it, cut short; lists and objects by their kind, since they may hold a prompt."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
