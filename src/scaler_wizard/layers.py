"""The two layers a user writes, job document and command line, merged and typed; what is wrong in them is said in the user's terms.

A value that came from a flag is reported under that flag. Faulty values are taken out once they are reported, so that the other
checks can go on with what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.config import Layer
from modelwright.config import resolve as merge_layers
from modelwright.errors import ConfigError, Fault, ModelwrightError
from scaler_wizard.arguments import ALLOWED_OF_PATH, FLAG_OF_PATH, SCHEDULE_ALLOWED, Arguments
from scaler_wizard.findings import Findings
from scaler_wizard.job import Settings, missing_sections, section_of, wrong_section
from scaler_wizard.model_facts import dataset_settings

MISSING = "-"  # stands in for a model that was not named, so that the other settings can be typed


def read_document(path: str, findings: Findings) -> Mapping[str, Any] | None:
    """The job document in a file, or None with a fault."""
    from modelwright.files import read_yaml

    try:
        document = read_yaml(Path(path))
    except ModelwrightError as error:
        findings.add("--config", str(error).rstrip("."), "a YAML or JSON job document")
        return None
    if not isinstance(document, Mapping):
        found = "an empty file" if document is None else f"a {type(document).__name__} in"
        findings.add("--config", f"{found} {path}", "a mapping with the sections of a job")
        return None
    return document


def split_document(document: Mapping[str, Any] | None, findings: Findings) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The settings of a job document and its contract section."""
    if document is None:
        return {}, None
    findings.faults += missing_sections(document)
    settings = {str(key): value for key, value in document.items() if key != "contract"}
    contract = document.get("contract")
    return settings, contract if isinstance(contract, Mapping) else None


def cli_layer(arguments: Arguments, findings: Findings) -> dict[str, Any]:
    """The settings of the command line, with the dataset URI as the settings it stands for."""
    layer = dict(arguments.settings)
    if arguments.dataset is not None:
        uri = arguments.dataset
        parts = findings.guard_usage("--dataset", lambda: dataset_settings(uri))
        given = layer.get("dataset")
        if parts:
            layer["dataset"] = {**(given if isinstance(given, Mapping) else {}), **parts}
    return layer


def typed(layers: list[Layer], findings: Findings) -> tuple[Settings, list[Layer]]:
    """The typed settings and the layers they came from, both without what was found to be faulty."""
    try:
        return merge_layers(Settings, layers).value, layers
    except ConfigError as error:
        found = [_in_our_words(fault) for fault in error.faults]
        findings.faults += [fault for fault in found if not _told(fault, findings)]
        values = [without(layer.values, [fault.path for fault in error.faults]) for layer in layers]
    for layer in values:  # a stand-in keeps the other checks running; the fault above ends the run anyway
        if "model" in layer and not isinstance(layer["model"], dict):
            del layer["model"]
    cleaned = [Layer(layer.name, value) for layer, value in zip(layers, values, strict=True)]
    try:
        return merge_layers(Settings, [Layer("default", {"model": {"base_model": MISSING}}), *cleaned]).value, cleaned
    except ConfigError:
        findings.raise_any()
        raise


def _told(fault: Fault, findings: Findings) -> bool:
    """Whether the reading of the document has said this already."""
    return findings.mentions(fault.path) or (fault.path == "--base-model" and fault.found == "nothing" and findings.mentions("model"))


def _in_our_words(fault: Fault) -> Fault:
    """The fault as the user would look for it: under its flag, a section as a section, with something to do."""
    path = fault.path
    if path in ("model", "model.base_model") and fault.found == "nothing":
        return Fault("--base-model", "nothing", "a local directory with config.json or a hub id", "name the model to stretch")
    if "an unknown key" in fault.found:
        return _flagged(fault)
    if section_of(path) is not None:
        source = "" if "(from job)" in fault.found else "--set "
        return replace(wrong_section(path, fault.found.removesuffix(" (from cli)").removesuffix(" (from job)")), path=source + path)
    return _flagged(fault if fault.todo else replace(fault, todo=_advice(fault)))


def _advice(fault: Fault) -> str:
    """What to do about a value of the wrong kind, where that is not plain from what is allowed."""
    if fault.path == "model.base_model":
        return "name the model to stretch"
    if fault.path.rsplit(".", 1)[-1].isdigit() and not fault.allowed.startswith("a mapping"):
        return "correct the item, or take it out of the list"
    if fault.found.startswith("null "):
        return "leave the line out to get the default"
    if fault.allowed.startswith("a list"):
        return "write the items in brackets, separated by commas"
    if fault.allowed.startswith("a mapping"):
        return "write it as {name: value}"
    return ""


def _flagged(fault: Fault) -> Fault:
    """The fault with its flag in place of its path when the value came from the command line."""
    path = fault.path
    allowed = ALLOWED_OF_PATH.get(path, fault.allowed)
    if "(from cli)" not in fault.found:
        return replace(fault, allowed=allowed)
    found = fault.found.replace(" (from cli)", "")
    flag = next((FLAG_OF_PATH[part] for part in (path, path.rsplit(".", 1)[0]) if part in FLAG_OF_PATH), f"--set {path}")
    allowed = SCHEDULE_ALLOWED if flag == "--context-schedule" else allowed.removesuffix(", or null")
    return Fault(flag, found, allowed, fault.todo)


def without(values: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    """A deep copy of nested `values` without the settings that `paths` point at or into; a list loses only the items named."""
    copy: dict[str, Any] = {str(key): without(value, []) if isinstance(value, Mapping) else value for key, value in values.items()}
    for path in sorted(paths, key=_by_index, reverse=True):  # the last item first: the places of the others stay
        node: Any = copy
        parts = path.split(".")
        for index, part in enumerate(parts):
            if not isinstance(node, dict) or part not in node:
                break
            inside, last = node[part], index == len(parts) - 1
            if not last and isinstance(inside, list) and parts[index + 1].isdigit() and int(parts[index + 1]) < len(inside):
                place = int(parts[index + 1])
                node[part] = [*inside[:place], *inside[place + 1 :]]
                break
            if last or not isinstance(inside, dict):
                del node[part]
                break
            node = inside
    return copy


def _by_index(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
