"""Layered typed configuration: later layers win, every value knows its origin, and all faults are reported at once.

A configuration is a pydantic model. Layers are nested mappings in ascending order of precedence, for example
``[Layer("template", …), Layer("job", …), override_layer(["scaling.lora_rank=16"]), Layer("flag", …)]``; the model's
own defaults lie below them all. Nested mappings are merged key by key; lists and scalars are replaced whole.

    resolved = resolve(JobConfig, layers)
    resolved.value.scaling.lora_rank      # typed
    resolved.origins["scaling.lora_rank"] # "flag"
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from modelwright.config_fields import allowed_at, allowed_key, allowed_values, field_names, known_paths, members_of, models_inside
from modelwright.errors import ConfigError, Fault
from modelwright.files import sha256_json

M = TypeVar("M", bound=BaseModel)
DEFAULT = "default"
Path = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One source of values. ``name`` is what origins and messages call it (``job``, ``template``, ``flag`` …)."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A checked configuration. ``origins`` maps the dot path of every leaf value to the name of the layer it came
    from.
    """

    value: M
    origins: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON-ready nested dicts."""
        return self.value.model_dump(mode="json")

    def digest(self, exclude: Sequence[str] = ()) -> str:
        """SHA-256 (hex) of the canonical JSON of the values, without the named dot paths (times, host paths)."""
        values = self.as_dict()
        for path in exclude:
            _remove(values, path.split("."))
        return sha256_json(values)


def resolve(model: type[M], layers: Sequence[Layer], overrides: Sequence[str] = ()) -> Resolved[M]:
    """Merge the layers, check the result, and say where each value came from.

    Args:
        model: pydantic model of the whole configuration.
        layers: ascending precedence.
        overrides: texts like ``a.b=3``, applied above every layer; to place them lower, pass :func:`override_layer`
            among the layers.

    Raises:
        ConfigError: with one fault per problem: unknown keys (with the nearest valid name), wrong types and values
            (with what is
            allowed), missing values, rules of the model itself, malformed overrides.
    """
    faults: list[Fault] = []
    stack = list(layers)
    if overrides:
        stack.append(_override_layer(overrides, "override", faults))
    merged: dict[str, Any] = {}
    sources: dict[Path, str] = {}
    for layer in stack:
        _merge(merged, layer.values, layer.name, sources, ())
    _take_unknown(model, merged, sources, faults)
    _refuse_truth_values(model, merged, sources, faults)
    try:
        value = model.model_validate(merged)
    except ValidationError as error:
        faults.extend(_faults_of(model, error, sources))
    if faults:
        raise ConfigError(sorted(set(faults), key=lambda fault: (fault.path, fault.found)))
    return Resolved(value, _origins(value, sources))


_EXPONENT = re.compile(r"[+-]?\d+(?:\.\d*)?[eE][+-]?\d+")


def parse_override(text: str) -> tuple[Path, Any]:
    """Read ``a.b=3`` as a path and a value. The value is YAML (``3``, ``true``, ``[1, 2]``, ``null``); nothing after
    ``=`` is an empty text.

    Raises:
        ConfigError: no ``=``, an empty key part, or a value that is no YAML.
    """
    key, equals, literal = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError([Fault(path=text, found="an override without a key and '='", allowed="key.subkey=value")])
    try:
        value = yaml.safe_load(literal) if literal.strip() else ""
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)  # YAML 1.1 takes 3e-4 for a text, and nobody who types it does
    except yaml.YAMLError:
        allowed = "a YAML value such as 3, true, text, [1, 2] or null"
        raise ConfigError([Fault(path=".".join(path), found=repr(literal), allowed=allowed, todo="quote text with marks in it")]) from None
    return path, value


def override_layer(texts: Sequence[str], name: str = "override") -> Layer:
    """Overrides as a layer of their own, to be placed anywhere in the order.

    Raises:
        ConfigError: naming every malformed text.
    """
    faults: list[Fault] = []
    layer = _override_layer(texts, name, faults)
    if faults:
        raise ConfigError(faults)
    return layer


def _override_layer(texts: Sequence[str], name: str, faults: list[Fault]) -> Layer:
    values: dict[str, Any] = {}
    for text in texts:
        try:
            path, value = parse_override(text)
        except ConfigError as error:
            faults.extend(error.faults)
            continue
        nested: Any = value
        for part in reversed(path):
            nested = {part: nested}
        _merge(values, nested, name, {}, ())
    return Layer(name, values)


def _merge(into: dict[str, Any], values: Mapping[str, Any], name: str, sources: dict[Path, str], at: Path) -> None:
    for raw_key, value in values.items():
        key = str(raw_key)
        path = (*at, key)
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                _forget(sources, path)
                into[key] = {}
            if not value:
                sources.setdefault(path, name)
            _merge(into[key], value, name, sources, path)
        else:
            _forget(sources, path)
            into[key] = list(value) if isinstance(value, (list, tuple)) else value
            sources[path] = name


def _forget(sources: dict[Path, str], path: Path) -> None:
    """Drop what was known below a path whose value is being replaced."""
    for old in [old for old in sources if old[: len(path)] == path]:
        del sources[old]


def _source(sources: Mapping[Path, str], path: Path) -> str:
    """The layer that set a path, the nearest part above it that was set whole, or else something below it."""
    for length in range(len(path), 0, -1):
        if path[:length] in sources:
            return sources[path[:length]]
    return next((name for below, name in sources.items() if below[: len(path)] == path), DEFAULT)


def _take_unknown(model: type[BaseModel], values: dict[str, Any], sources: Mapping[Path, str], faults: list[Fault]) -> None:
    """Remove keys the model does not know, with one fault each, so that the rest can still be checked."""
    everywhere = known_paths(model)

    def visit(models: Sequence[type[BaseModel]], node: dict[str, Any], at: Path) -> None:
        if any(candidate.model_config.get("extra") == "allow" for candidate in models):
            return
        names = {name: inner for candidate in models for name, inner in field_names(candidate).items()}
        for key in list(node):
            path = (*at, key)
            if key in names:
                for place, child in _nested(node[key], path, names[key].annotation):
                    visit(place[1], child, place[0])
                continue
            del node[key]
            near = nearest(key, names) or _same_name_elsewhere(key, everywhere)
            todo = f"did you mean {'.'.join((*at, near)) if near in names else near}?" if near else ""
            found = f"an unknown key (from {_source(sources, path)})"
            faults.append(Fault(path=".".join(path), found=found, allowed=", ".join(sorted(names)), todo=todo))

    visit([model], values, ())


def _nested(value: Any, path: Path, annotation: Any) -> list[tuple[tuple[Path, Sequence[type[BaseModel]]], dict[str, Any]]]:
    """Dicts inside the value of a field of that annotation that are to be read as one of its models, each with its path."""
    models = models_inside(annotation)
    if not models:
        return []
    if isinstance(value, list):
        return [((((*path, str(index))), models), item) for index, item in enumerate(value) if isinstance(item, dict)]
    if not isinstance(value, dict):
        return []
    if any(get_origin(member) is dict for member in members_of(annotation)):  # a mapping from free names to models
        return [(((*path, key), models), item) for key, item in value.items() if isinstance(item, dict)]
    return [((path, models), value)]


def _refuse_truth_values(model: type[BaseModel], values: Mapping[str, Any], sources: Mapping[Path, str], faults: list[Fault]) -> None:
    """``true`` for a number is a mistake, though Python counts it as 1."""

    def visit(current: type[BaseModel], node: Mapping[str, Any], at: Path) -> None:
        for name, info in field_names(current).items():
            if name not in node:
                continue
            value, path = node[name], (*at, name)
            if isinstance(value, bool) and info.annotation in (int, float):
                faults.append(_wrong(path, value, allowed_values(info), sources))
            inner = models_inside(info.annotation)
            if isinstance(value, dict) and len(inner) == 1:
                visit(inner[0], value, path)

    visit(model, values, ())


def _faults_of(model: type[BaseModel], error: ValidationError, sources: Mapping[Path, str]) -> list[Fault]:
    faults = []
    for detail in error.errors(include_url=False):
        path = tuple(str(part) for part in detail["loc"])
        dotted = ".".join(path)
        if detail["type"] == "missing":
            allowed = allowed_at(model, path) or "a value"
            faults.append(Fault(path=dotted, found="nothing", allowed=allowed, todo="set it; it has no default"))
        elif detail["type"] in ("value_error", "assertion_error"):
            rule = str(detail.get("ctx", {}).get("error", detail["msg"]))
            faults.append(Fault(path=dotted or "(whole configuration)", found=shown(detail["input"]), allowed=rule))
        elif path[-1:] == ("[key]",):
            found = f"the key {shown(detail['input'])} (from {_source(sources, path[:-1])})"
            faults.append(Fault(".".join(path[:-2]), found, f"{allowed_key(model, path[:-2]) or 'another key'} as key"))
        else:
            message = detail["msg"][:1].lower() + detail["msg"][1:]
            faults.append(_wrong(path, detail["input"], allowed_at(model, path) or message, sources))
    return faults


def _wrong(path: Path, value: Any, allowed: str, sources: Mapping[Path, str]) -> Fault:
    return Fault(path=".".join(path), found=f"{shown(value)} (from {_source(sources, path)})", allowed=allowed)


def shown(value: Any) -> str:
    """The value as a configuration file writes it; lists and mappings are called so."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kind = "a mapping " if isinstance(value, Mapping) else "a list " if isinstance(value, (list, tuple)) else ""
    text = kind + (json.dumps(value, ensure_ascii=False, default=str) if kind else repr(value))
    return text if len(text) <= 80 else text[:77] + "…"


def nearest(name: str, names: Mapping[str, Any] | Sequence[str]) -> str | None:
    """The valid name a wrong one most likely means, or None."""
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def _same_name_elsewhere(key: str, everywhere: Mapping[str, Any]) -> str | None:
    ending = [path for path in everywhere if path.rsplit(".", 1)[-1] == key]
    return ending[0] if ending else None


def _origins(value: BaseModel, sources: Mapping[Path, str]) -> dict[str, str]:
    origins: dict[str, str] = {}

    def visit(node: Any, at: Path) -> None:
        if isinstance(node, BaseModel):
            for name in type(node).model_fields:
                alias = type(node).model_fields[name].alias
                used = alias if alias and (*at, alias) in sources else name
                visit(getattr(node, name), (*at, used))
        elif isinstance(node, dict) and node:
            for key, item in node.items():
                visit(item, (*at, str(key)))
        else:
            origins[".".join(at)] = _source(sources, at)

    visit(value, ())
    return origins


def _remove(values: dict[str, Any], parts: Sequence[str]) -> None:
    for part in parts[:-1]:
        inner = values.get(part)
        if not isinstance(inner, dict):
            return
        values = inner
    values.pop(parts[-1], None)
