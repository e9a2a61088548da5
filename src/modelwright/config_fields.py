"""What a pydantic model allows, in words: field names, dot paths, nested models and allowed values."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
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
    """What a field accepts, in words: choices, type, bounds, pattern."""
    return _words(info.annotation) + _bounds(info.metadata)


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
        return "a list of " + " / ".join(dict.fromkeys(_words(part) for part in parts)) if parts else "a list"
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


def _bounds(metadata: Any) -> str:
    signs: tuple[tuple[type, str, str], ...] = (
        (annotated_types.Ge, "ge", "at least"),
        (annotated_types.Gt, "gt", "above"),
        (annotated_types.Le, "le", "at most"),
        (annotated_types.Lt, "lt", "below"),
    )
    said = []
    for item in metadata:
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
