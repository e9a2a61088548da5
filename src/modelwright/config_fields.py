"""What a pydantic model allows, in words: field names, dot paths, nested models and allowed values."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    set: "a list",
}


def field_names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Names a configuration may use for the model's fields: the alias when there is one, and the name when it is
    accepted too.
    """
    names: dict[str, FieldInfo] = {}
    by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
    for name, info in model.model_fields.items():
        if info.alias:
            names[info.alias] = info
        if not info.alias or by_name:
            names[name] = info
    return names


def models_inside(annotation: Any) -> list[type[BaseModel]]:
    """Models a field's value may hold: the annotation itself, members of a union, items of a list, values of a
    mapping.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_inside(part)]


def known_paths(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dot path of every field, sub-models included (items of lists and mappings have no fixed path and are left
    out).
    """
    paths: dict[str, FieldInfo] = {}
    for name, info in field_names(model).items():
        paths[prefix + name] = info
        if not _is_container(info.annotation):
            for inner in models_inside(info.annotation):
                paths |= known_paths(inner, f"{prefix}{name}.")
    return paths


def allowed_values(info: FieldInfo) -> str:
    """What a field accepts, in words: choices, type, bounds, pattern; null last, which bounds do not concern."""
    members = get_args(info.annotation) if get_origin(info.annotation) in (Union, types.UnionType) else (info.annotation,)
    valued = [member for member in members if member is not type(None)]
    words = " or ".join(dict.fromkeys(_words(member) for member in valued)) + _bounds(info.metadata)
    return words if len(valued) == len(members) else f"{words}, or null"


def allowed_at(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """What may stand at a path that leads through lists and mappings as well, in words; None when nothing is known there."""
    current: Any = model
    for part in path:
        current = _inside(current.annotation if isinstance(current, FieldInfo) else current, part)
        if current is None:
            return None
    return allowed_values(current) if isinstance(current, FieldInfo) else _words(current)


def allowed_key(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """What may be a key of the mapping at `path`, in words; None when there is no mapping."""
    current: Any = model
    for part in path:
        current = _inside(current.annotation if isinstance(current, FieldInfo) else current, part)
    annotation = current.annotation if isinstance(current, FieldInfo) else current
    keys = [get_args(member)[0] for member in members_of(annotation) if get_origin(member) is dict]
    return _words(keys[0]) if keys else None


def _inside(annotation: Any, part: str) -> Any:
    """The field, or the annotation of the item or value, that `part` names inside an annotation; None for none."""
    for member in members_of(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            found = field_names(member).get(part)
            if found is not None:
                return found
            continue
        inner = [item for item in get_args(member) if item is not Ellipsis]
        if get_origin(member) is dict:
            return inner[1]
        if get_origin(member) in (list, tuple, set, frozenset) and part.isdigit() and inner:
            return inner[0]
    return None


def members_of(annotation: Any) -> list[Any]:
    """The annotation without its Annotated shell; the parts of a union one by one."""
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members_of(part)]
    return [annotation]


def _is_container(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType, Annotated):
        return any(_is_container(part) for part in get_args(annotation))
    return isinstance(origin, type) and not issubclass(origin, BaseModel)


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return _words(inner) + _bounds(metadata)
    if origin is Literal:
        return ", ".join(_plain(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in get_args(annotation)))
    if origin in (list, tuple, set, frozenset):
        parts = [part for part in get_args(annotation) if part is not Ellipsis]
        return "a list of " + " / ".join(dict.fromkeys(_plural(_words(part)) for part in parts)) if parts else "a list"
    if origin is not None:
        return _words(origin)
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return ", ".join(_plain(member.value) for member in annotation)
        if issubclass(annotation, BaseModel):
            return "a mapping with " + ", ".join(field_names(annotation))
        if issubclass(annotation, Mapping):
            return _WORDS[dict]
        return _WORDS.get(annotation, f"a {annotation.__name__}")
    return "any value" if annotation is Any else str(annotation)


def _plural(words: str) -> str:
    """`a whole number above 0` as `whole numbers above 0`, `text` as `texts`; other words as they are."""
    if words == "text":
        return "texts"
    return words.removeprefix("a ").replace("number", "numbers", 1) if words.startswith(("a number", "a whole number")) else words


def _bounds(metadata: Any) -> str:
    signs: tuple[tuple[type, str, str], ...] = (
        (annotated_types.Ge, "ge", "at least"),
        (annotated_types.Gt, "gt", "above"),
        (annotated_types.Le, "le", "at most"),
        (annotated_types.Lt, "lt", "below"),
    )
    said = []
    for item in (part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])):
        said += [f"{word} {getattr(item, attribute)}" for kind, attribute, word in signs if isinstance(item, kind)]
        if isinstance(item, annotated_types.MinLen):
            said.append(f"of length at least {item.min_length}")
        if isinstance(item, annotated_types.MaxLen):
            said.append(f"of length at most {item.max_length}")
        pattern = getattr(item, "pattern", None)
        if pattern:
            said.append(f"matching {pattern}")
    return " " + " and ".join(said) if said else ""


def _plain(choice: Any) -> str:
    return str(choice) if isinstance(choice, str) else repr(choice)
