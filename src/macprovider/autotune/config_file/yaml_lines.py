"""Set and remove top-level keys of a YAML file line by line: what is not named stays as it was, byte for byte.

The parser only says where things stand; the text itself is cut and joined, never written anew from parsed values. Each result
is parsed again and must hold the same foreign content and the wanted values, or nothing is returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from modelwright.errors import ModelwrightError

Scalar = str | int
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+=~-]*")
_LINE_END = re.compile(r"\r\n|\n|\r")
_ALIAS = re.compile(r"\s*\*\S+")
_BOM = "\ufeff"


class YamlEditError(ModelwrightError):
    """This text cannot be edited line by line; one sentence says why and what to do."""


@dataclass(frozen=True)
class _Entry:
    """One top-level `key: value`. Numbers are places in the text: line_start, of the line of the key; colon, just behind the
    `:`; value and content_end, around what the value says, without blank lines behind it.
    """

    key: str
    line: int
    line_start: int
    colon: int
    value: int
    content_end: int
    style: str | None
    one_line: bool


@dataclass(frozen=True)
class _Document:
    """Where the entries stand, and where a new one may be put: at `end`, or before the first."""

    entries: tuple[_Entry, ...]
    end: int
    indent: str


def set_keys(text: str, wanted: Mapping[str, Scalar | None], name: str = "the file") -> str:
    """`text` with each key of `wanted` at its value, or gone where the value is None; a key that has its value already keeps
    its line. New keys are put at the end.

    name: what sentences call the text. Raises YamlEditError for what is no YAML, has several documents, a top level that is no
    block of `key: value` lines, a wanted key twice or in the `? key` form, or an anchor in the way.
    """
    before = load(text, name)
    document = _read(text, wanted, name)
    changed = {key: value for key, value in wanted.items() if not holds(before, key, value)}
    present = {entry.key: entry for entry in document.entries if entry.key in changed}
    if not changed:
        return text
    foreign = _foreign_events(text, wanted)
    for place in _places_for_new(document):
        edited = _edited(text, document, present, changed, place)
        if _as_wanted(edited, wanted) and _foreign_events(edited, wanted) == foreign:
            return edited
    raise YamlEditError(
        f"{name} is left as it was: {_listed(changed)} cannot be set without a change to other keys (an anchor, an alias or a "
        "merge is in the way). Set them by hand."
    )


def load(text: str, name: str = "the file") -> dict[Any, Any]:
    """The mapping that `text` holds, {} when it holds nothing. Raises YamlEditError."""
    try:
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1}: {error.problem})" if mark else f" ({error.problem})"
        raise YamlEditError(_refused(name, f"it is no single valid YAML document{where}", "Correct it")) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise YamlEditError(_refused(name, f"it is no valid YAML ({reason})", "Correct it")) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise YamlEditError(_refused(name, f"its top level is a {type(value).__name__}", "Write it as lines of `key: value`"))
    return value


def _refused(name: str, why: str, todo: str) -> str:
    return f"{name} is not edited: {why}. {todo}, then apply again."


# --- where things stand


def _read(text: str, wanted: Mapping[str, Scalar | None], name: str) -> _Document:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    end = _document_end(text)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return _Document((), end, "")
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise YamlEditError(_refused(name, "its top level is in flow style ({...}) or no mapping", "Write it as lines of `key: value`"))
    entries = tuple(_entry(text, key, value, name) for key, value in root.value if _is_named(key, wanted))
    _refuse_twice(entries, name)
    first = root.value[0][0].start_mark
    return _Document(entries, end, " " * first.column)


def _is_named(key: yaml.Node, wanted: Mapping[str, Scalar | None]) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str" and key.value in wanted


def _entry(text: str, key: yaml.Node, value: yaml.Node, name: str) -> _Entry:
    start, line = key.start_mark.index, key.start_mark.line + 1
    line_start = _line_start(text, start)
    colon = re.compile(r"[ \t]*:").match(text, key.end_mark.index)
    if text[line_start:start].strip(" " + _BOM) or colon is None:
        raise YamlEditError(_refused(name, f"line {line} writes {key.value!r} in the `? key` form", f"Write it as `{key.value}: value`"))
    if value.start_mark.index < colon.end():  # an alias: the node stands where its anchor is
        alias = _ALIAS.match(text, colon.end())
        return _Entry(key.value, line, line_start, colon.end(), colon.end(), alias.end() if alias else colon.end(), None, False)
    content_end = max(_content_end(text, value), colon.end())
    style = value.style if isinstance(value, yaml.ScalarNode) else None
    one_line = isinstance(value, yaml.ScalarNode) and _LINE_END.search(text, value.start_mark.index, content_end) is None
    return _Entry(key.value, line, line_start, colon.end(), value.start_mark.index, content_end, style, one_line)


def _content_end(text: str, node: yaml.Node) -> int:
    """Behind the last character that belongs to a value. A block value's own end mark stands at the next key, behind comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        children = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        inside = [_content_end(text, child) for child in children if child.start_mark.index >= node.start_mark.index]
        return max(inside, default=node.start_mark.index)
    start, end = node.start_mark.index, node.end_mark.index
    return start + len(text[start:end].rstrip(" \t\r\n"))


def _document_end(text: str) -> int:
    """Where the only document's lines end: before its `...` line when it has one."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentEndEvent) and event.explicit and event.start_mark is not None:
            return _line_start(text, event.start_mark.index)
    return len(text)


def _refuse_twice(entries: tuple[_Entry, ...], name: str) -> None:
    lines: dict[str, list[int]] = {}
    for entry in entries:
        lines.setdefault(entry.key, []).append(entry.line)
    twice = [f"{key} stands on lines {' and '.join(map(str, at))}" for key, at in lines.items() if len(at) > 1]
    if twice:
        raise YamlEditError(_refused(name, "; ".join(twice), "Keep one of them"))


def _line_start(text: str, place: int) -> int:
    return max(text.rfind("\n", 0, place), text.rfind("\r", 0, place)) + 1


def _line_after(text: str, place: int) -> int:
    """The start of the next line."""
    end = _LINE_END.search(text, place)
    return end.end() if end else len(text)


# --- edits


def _places_for_new(document: _Document) -> Iterator[int | None]:
    """The end of the document; None, before everything else, where the end belongs to a text block."""
    yield document.end
    yield None


def _edited(text: str, document: _Document, present: Mapping[str, _Entry], changed: Mapping[str, Scalar | None], place: int | None) -> str:
    first_end = _LINE_END.search(text)
    newline = first_end.group() if first_end else "\n"
    new = [f"{document.indent}{key}: {_scalar(value)}" for key, value in changed.items() if value is not None and key not in present]
    edits = [_edit(text, present[key], value) for key, value in changed.items() if key in present]
    if new:
        edits.append(_insertion(text, document.end if place is None else place, new, newline, at_top=place is None))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _edit(text: str, entry: _Entry, value: Scalar | None) -> tuple[int, int, str]:
    """(start, end, replacement) for one key that is there."""
    if value is None:
        start = entry.line_start + text.startswith(_BOM, entry.line_start)
        return start, _line_after(text, entry.content_end), ""
    if entry.one_line and entry.value < entry.content_end:
        return entry.value, entry.content_end, _scalar(value, entry.style)
    return entry.colon, entry.content_end, " " + _scalar(value)


def _insertion(text: str, end: int, lines: list[str], newline: str, *, at_top: bool) -> tuple[int, int, str]:
    """New lines keep the way the file ends: with a line break or without."""
    if at_top:
        start = _top(text)
        return start, start, newline.join(lines) + newline
    closed = end == 0 or text[end - 1] in "\r\n" or text[:end] == _BOM
    if closed:
        return end, end, newline.join(lines) + newline
    return end, end, newline + newline.join(lines)


def _top(text: str) -> int:
    """Where the first line of content may stand: behind a byte order mark, directives and `---`."""
    marker = re.compile(r"^(?:%[^\r\n]*(?:\r\n|\n|\r))*(?:---[^\r\n]*(?:\r\n|\n|\r))?")
    start = len(_BOM) if text.startswith(_BOM) else 0
    found = marker.match(text[start:])
    return start + (found.end() if found and "---" in found.group() else 0)


def _scalar(value: Scalar, style: str | None = None) -> str:
    """One value on one line, quoted as the old one was, or where a plain one would be read as something else."""
    if isinstance(value, int):
        return str(value)
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    if style != '"' and _PLAIN.fullmatch(value) and _reads_as_itself(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _reads_as_itself(value: str) -> bool:
    try:
        return bool(yaml.safe_load(value) == value)
    except (yaml.YAMLError, ValueError):  # an impossible date, for one
        return False


# --- proof


def holds(values: Mapping[Any, Any], key: str, value: Scalar | None) -> bool:
    """Whether `key` has exactly this value, type included; for None, whether it is absent."""
    if value is None:
        return key not in values
    return key in values and type(values[key]) is type(value) and values[key] == value


def _as_wanted(text: str, wanted: Mapping[str, Scalar | None]) -> bool:
    try:
        values = load(text)
    except YamlEditError:
        return False
    return all(holds(values, key, value) for key, value in wanted.items())


def _foreign_events(text: str, wanted: Mapping[str, Scalar | None]) -> list[tuple[Any, ...]]:
    """What the parser hears, but for the wanted top-level keys and their values; anchors and aliases unresolved, so that a
    small file cannot grow without bound here.
    """
    heard: list[tuple[Any, ...]] = []
    depth, at_key, skipping = 0, True, False
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        opens = isinstance(event, yaml.CollectionStartEvent)
        closes = isinstance(event, yaml.CollectionEndEvent)
        depth -= closes
        if depth == 1 and at_key and not closes:
            skipping = isinstance(event, yaml.ScalarEvent) and event.value in wanted
        if depth >= 1 and not skipping:
            parts = ("anchor", "tag", "implicit", "value")
            heard.append((type(event).__name__, depth, *(getattr(event, part, None) for part in parts)))
        if depth == 1 and not opens:
            at_key = not at_key
        depth += opens
    return heard


def _listed(keys: Mapping[str, object]) -> str:
    return ", ".join(keys)
