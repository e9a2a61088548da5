"""Reading single fields of a request: each answers with the value, the default when the field is absent or null, or raises."""

from __future__ import annotations

import math
from typing import Any

import orjson

from macprovider.serving.errors import ApiError, invalid, wrong

Document = dict[str, Any]
MAX_DEPTH = 64
"""Levels of JSON in a schema or in the arguments of a call; what checks and writes them goes down level by level."""


def parse_document(body: bytes) -> Document:
    """The request as an object. Raises ApiError `invalid_json` for what is no JSON, `invalid_request` for another kind of value."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise invalid("The body: found JSON that is no object; allowed: an object with the request's fields.")
    return document


def number(document: Document, name: str, low: float, high: float, default: float) -> float:
    """A number from `low` to `high`, both allowed."""
    value = document.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise wrong(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def whole(document: Document, name: str, low: int, high: int | None = None) -> int | None:
    """A whole number, or None when absent."""
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise wrong(name, value, f"a whole number from {low} to {high}" if high is not None else f"a whole number, at least {low}")
    return value


def truth(document: Document, name: str, default: bool = False) -> bool:
    """true or false."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def text(document: Document, name: str, where: str = "") -> str | None:
    """Text, or None when absent."""
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(where + name, value, "text")
    return value


def mapping(document: Document, name: str) -> Document | None:
    """An object, or None when absent."""
    value = document.get(name)
    if value is not None and not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value


def deeper(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Whether lists and objects stand in each other in more than so many levels."""
    layer = [value]
    for _ in range(levels + 1):
        parts = [part for part in layer if isinstance(part, (dict, list))]
        if not parts:
            return False
        layer = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
    return True


def required(document: Document, name: str) -> Any:
    """The field's value. Raises ApiError when it is absent or null."""
    value = document.get(name)
    if value is None:
        raise invalid(f"{name}: found nothing; the field is required.", name)
    return value
