"""The rules for one row, twice: fast, to pass the good ones, and in words, to name every fault of a bad one. (specs/guild.md 5.1, 5.2)"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from guild.validation.schemas import METADATA_KEYS, SCHEMAS, DataSchema

ROLES = ("system", "user", "assistant")
_BITS = {"system": 0, "user": 1, "assistant": 2}
_BOTH = 3
_SHOWN = 40
_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}


class RowFault(NamedTuple):
    """One fault of a row. place: where in the row, "" for the row itself. todo: what to do, or ""."""

    place: str
    found: str
    allowed: str
    todo: str = ""


def validate_row(row: Any, schema: DataSchema, *, strict: bool = False) -> list[RowFault]:
    """Every fault of one parsed row; none when it may be trained on. strict: it must also say where it comes from."""
    if not isinstance(row, dict):
        return [RowFault("", shown(row), f"an object with the column {schema.column!r}")]
    faults = list(_message_faults(row) if schema.column == "messages" else _text_faults(row))
    named = named_schema(row)
    if named is not None and (not isinstance(named, str) or named not in SCHEMAS):
        faults.append(RowFault("schema_id", shown(named), _one_of(SCHEMAS)))
    return [*faults, *_metadata_faults(row)] if strict else faults


def sound_rows(schema: DataSchema) -> Callable[[Any], bool]:
    """A fast test that is true only for rows without a fault (not in strict mode) that name no other schema.

    It may be false for a good row: `validate_row` has the last word.
    """
    own = schema.id

    def sound_chat(row: Any) -> bool:
        try:
            seen = 0
            for message in row["messages"]:
                if type(message["content"]) is not str:
                    return False
                seen |= _BITS[message["role"]]
            metadata = row.get("metadata")
            return seen == _BOTH and row.get("schema_id", own) == own and (not metadata or metadata.get("schema_id", own) == own)
        except (KeyError, TypeError, AttributeError):
            return False

    def sound_text(row: Any) -> bool:
        try:
            text, metadata = row["text"], row.get("metadata")
            if type(text) is not str or not text or text.isspace():
                return False
            return row.get("schema_id", own) == own and (not metadata or metadata.get("schema_id", own) == own)
        except (KeyError, TypeError, AttributeError):
            return False

    return sound_chat if schema.column == "messages" else sound_text


def named_schema(row: Mapping[str, Any]) -> Any:
    """The schema id that a row names in its metadata or in itself; None when it names none."""
    return from_metadata(row, "schema_id")


def from_metadata(row: Mapping[str, Any], key: str) -> Any:
    """What a row says about itself under `key`: in its `metadata`, else in the row."""
    metadata = row.get("metadata")
    if isinstance(metadata, dict) and metadata.get(key) is not None:
        return metadata[key]
    return row.get(key)


def shown(value: Any) -> str:
    """A found value in a sentence: what it is and how it begins, in letters that are safe on any terminal."""
    name = _NAMES.get(type(value), type(value).__name__)
    if value is None or value in ({}, [], ""):
        return "null" if value is None else f"an empty {name.split()[-1]}"
    text = ascii(value)
    return f"{name}, {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"


def _message_faults(row: Mapping[str, Any]) -> Iterator[RowFault]:
    if "messages" not in row:
        yield RowFault("messages", f"the columns {_columns(row)}", "a list of messages", "Add the conversation, or name the right schema")
        return
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        yield RowFault("messages", shown(messages), "a list with at least one message")
        return
    roles = set()
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            yield RowFault(place, shown(message), "an object with role and content")
            continue
        role = message.get("role")
        if isinstance(role, str) and role in ROLES:
            roles.add(role)
        else:
            yield RowFault(f"{place}.role", shown(role) if "role" in message else "nothing", _one_of(ROLES))
        if not isinstance(message.get("content"), str):
            yield RowFault(f"{place}.content", shown(message["content"]) if "content" in message else "nothing", "a text")
    for role in ("user", "assistant"):
        if role not in roles:
            yield RowFault("messages", f"no turn of the {role}", "at least one turn of the user and one of the assistant")


def _text_faults(row: Mapping[str, Any]) -> Iterator[RowFault]:
    if "text" not in row:
        yield RowFault("text", f"the columns {_columns(row)}", "a text", "Add the text, or name the right schema")
    elif not isinstance(row["text"], str) or not row["text"].strip():
        yield RowFault("text", shown(row["text"]), "a text that is not blank")


def _metadata_faults(row: Mapping[str, Any]) -> Iterator[RowFault]:
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        yield RowFault("metadata", shown(metadata), "an object")
    missing = [key for key in METADATA_KEYS if from_metadata(row, key) is None]
    if missing:
        yield RowFault("metadata", f"no {', '.join(missing)}", f"{', '.join(METADATA_KEYS)} in every row (strict mode)")


def _columns(row: Mapping[str, Any]) -> str:
    names = [ascii(name)[:_SHOWN] for name in row]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "none"


def _one_of(names: Any) -> str:
    return f"one of {', '.join(names)}"
