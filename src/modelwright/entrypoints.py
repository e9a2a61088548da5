"""The entry points of our own distribution, read in about a millisecond.

`importlib.metadata` costs more start-up time than everything else a command needs, so the one small file is read
directly. In a source tree that is not installed, `pyproject.toml` says the same.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "modelwright"


def entry_points(group: str) -> dict[str, str]:
    """Name → `module:attribute` of every entry point of the group; empty when there is no such group."""
    text = _installed_text()
    if text is not None:
        return _parse(text, group)
    return _from_source_tree(Path(__file__).resolve().parents[2] / "pyproject.toml", group)


def is_importable(target: str) -> bool:
    """Whether the module of a `module:attribute` exists, found out without importing it or its package."""
    package, *inner = target.partition(":")[0].split(".")
    spec: ModuleSpec | None = find_spec(package)
    name = package
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec is not None


def _installed_text() -> str | None:
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.startswith(f"{DISTRIBUTION}-") and name.endswith(".dist-info"):
                try:
                    return Path(folder, name, "entry_points.txt").read_text(encoding="utf-8")
                except OSError:
                    continue
    return None


def _parse(text: str, group: str) -> dict[str, str]:
    found: dict[str, str] = {}
    inside = False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and "=" in line:
            name, _, target = line.partition("=")
            found[name.strip()] = target.strip()
    return found


def _from_source_tree(path: Path, group: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    import tomllib

    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return dict(project.get("entry-points", {}).get(group, {})) if project.get("name") == DISTRIBUTION else {}
