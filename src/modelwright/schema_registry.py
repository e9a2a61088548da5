"""The one registry of artifact schemas: a model per file that Modelwright writes, exported as JSON Schema into
`schemas/`.

Every owner (the kernel, each room) has a module with a tuple `SCHEMAS` of `ArtifactSchema`, named by an entry point of
the group `modelwright.schemas`. Nothing registers itself by being imported, so the order of imports means nothing.

    python -m modelwright.schema_registry list
    python -m modelwright.schema_registry export      writes src/modelwright/schemas/*.json
    python -m modelwright.schema_registry check       exits 1 when the files differ from the models
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from modelwright.entrypoints import entry_points, is_importable
from modelwright.errors import ModelwrightError, UsageError

GROUP = "modelwright.schemas"
FOLDER = Path(__file__).parent / "schemas"
_RUN_FILE = re.compile(r"(?:[\w<>.-]+/)*[\w<>.-]+\.(?:json|jsonl|yaml)\b")
_PLACEHOLDER = re.compile(r"<\w+>")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class ArtifactSchema:
    """One kind of file.

    name: unique over all owners, lower case with hyphens, and the name of the exported file. version: of the format.
    model: a pydantic model (or any type pydantic can describe). owner: the import package it belongs to. file: where
    such documents are found.
    """

    name: str
    version: int
    model: Any
    owner: str
    file: str


@cache
def all_schemas() -> tuple[ArtifactSchema, ...]:
    """Every schema of every installed owner, by name. Raises ModelwrightError when two owners use one name."""
    found: dict[str, ArtifactSchema] = {}
    for target in entry_points(GROUP).values():
        if not is_importable(target):
            continue  # a room that this installation does not have
        module, _, attribute = target.partition(":")
        for artifact in getattr(import_module(module), attribute):
            if artifact.name in found:
                owners = f"{found[artifact.name].owner} and {artifact.owner}"
                raise ModelwrightError(f"The schema name {artifact.name!r} is used by {owners}; a name has one owner.")
            found[artifact.name] = artifact
    return tuple(found[name] for name in sorted(found))


def get(name: str) -> ArtifactSchema:
    """The schema of that name. Raises UsageError with the valid names."""
    for artifact in all_schemas():
        if artifact.name == name:
            return artifact
    raise UsageError(f"schema: found {name!r}; allowed: {', '.join(artifact.name for artifact in all_schemas())}.")


def run_files() -> tuple[str, ...]:
    """Patterns of the JSON, JSONL and YAML files that the schemas speak of, relative to a run directory and ready for
    `Path.glob`: `hardware.json`, `control/answered/*-*.json`."""
    found = {_PLACEHOLDER.sub("*", name) for artifact in all_schemas() for name in _RUN_FILE.findall(artifact.file)}
    return tuple(sorted(found))


def json_schema(artifact: ArtifactSchema) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one artifact."""
    from pydantic import TypeAdapter

    body = TypeAdapter(artifact.model).json_schema()
    return {
        "$schema": DIALECT,
        "$id": f"urn:modelwright:schema:{artifact.name}:{artifact.version}",
        "x-owner": artifact.owner,
        "x-file": artifact.file,
        "x-version": artifact.version,
        **body,
    }


def exported() -> dict[str, str]:
    """File name → text of every schema as `export` writes it."""
    return {f"{artifact.name}.json": json.dumps(json_schema(artifact), indent=2, ensure_ascii=False) + "\n" for artifact in all_schemas()}


def export(folder: Path = FOLDER) -> list[Path]:
    """Write every schema and remove files of schemas that are gone; return the paths written."""
    from modelwright.files import make_folder, write_text

    make_folder(folder)
    wanted = exported()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        write_text(folder / name, text)
    return [folder / name for name in wanted]


def differences(folder: Path = FOLDER) -> list[str]:
    """One sentence per committed file that is missing, stale or left over; empty when folder and models agree."""
    wanted = exported()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    said = [f"{name} is missing" for name in wanted if name not in present]
    said += [f"{name} differs from its model" for name, text in wanted.items() if present.get(name, text) != text]
    said += [f"{name} belongs to no schema" for name in present if name not in wanted]
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """`list`, `export` or `check`; exit codes 0 done, 1 files and models differ, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["list"]:
        for artifact in all_schemas():
            print(f"{artifact.name:<24} v{artifact.version}  {artifact.owner:<16} {artifact.file}")
        return 0
    if arguments == ["export"]:
        print(f"wrote {len(export())} schemas to {FOLDER}")
        return 0
    if arguments == ["check"]:
        found = differences()
        for sentence in found:
            print(f"{sentence}; run: python -m modelwright.schema_registry export", file=sys.stderr)
        return 1 if found else 0
    print("usage: python -m modelwright.schema_registry list | export | check", file=sys.stderr)
    return 0 if arguments in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    # Under `-m` this file is the module `__main__`; owners import it by its name, so the work is done by that one.
    sys.exit(import_module("modelwright.schema_registry").main())
