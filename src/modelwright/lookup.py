"""Folders whose runs were listed before, and finding the run that a user means.

Roots are remembered in `$MODELWRIGHT_HOME/run-roots.json`, a file of its own so that it survives the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelwright.errors import ModelwrightError, StorageError, UsageError
from modelwright.files import read_json, write_json
from modelwright.home import ensure_folder, home_path
from modelwright.scan import RunRow, is_run, is_text, record_error

ROOTS_NAME = "run-roots.json"


def remembered_roots() -> list[Path]:
    """Folders whose runs were listed before, oldest first."""
    path = home_path(ROOTS_NAME)
    try:
        document = read_json(path) if path.exists() else {}
    except ModelwrightError:
        return []  # it only saves typing; the next listing writes it anew
    roots = document.get("roots") if isinstance(document, dict) else None
    return [Path(root) for root in roots if isinstance(root, str)] if isinstance(roots, list) else []


def remember_roots(roots: Iterable[Path]) -> None:
    """Add folders to the remembered ones; a home that cannot be written remembers nothing, which is no fault of a
    listing.
    """
    known = remembered_roots()
    absolute = [root.absolute() for root in roots if root.is_dir() and is_text(str(root))]
    new = [root for root in dict.fromkeys(absolute) if root not in known]
    if not new:
        return
    try:
        ensure_folder(home_path())
        write_json(home_path(ROOTS_NAME), {"schema_version": 1, "roots": [str(root) for root in [*known, *new]]})
    except ModelwrightError:
        return


def forget_roots(gone: Iterable[Path]) -> None:
    """Drop folders from the remembered ones. Raises StorageError."""
    dropped = set(gone)
    left = [str(root) for root in remembered_roots() if root not in dropped]
    write_json(home_path(ROOTS_NAME), {"schema_version": 1, "roots": left})


def find_run(text: str, rows: Sequence[RunRow], roots: Sequence[Path]) -> Path:
    """The run a user means: a path, a directory name below the roots, or the first letters of a run id.

    Raises UsageError: nothing matches (with near names), or several do (with their paths); StorageError: the path
    cannot be looked at.
    """
    given = Path(os.path.expanduser(text))
    if text and is_run(given):
        return given.absolute()
    matches = [entry for entry in rows if entry.name == text or _below(entry.path, roots) == text]
    if not matches:
        matches = [entry for entry in rows if entry.run_id.startswith(text.lower())] if text else []
    if len(matches) == 1:
        return Path(matches[0].path)
    where = ", ".join(str(root) for root in roots) or "any known folder"
    if matches:
        places = ", ".join(entry.path for entry in matches[:5])
        raise UsageError(f"run: found {text!r}, which fits {len(matches)} runs ({places}); allowed: a path, a longer id.")
    refused = record_error(given) if text else None
    if refused is not None and (os.path.lexists(given) or isinstance(refused, StorageError)):
        raise refused
    from difflib import get_close_matches

    names = {entry.name: entry for entry in rows}
    near = get_close_matches(text, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else " `modelwright runs list` shows what there is."
    allowed = "a path, a directory name or the start of a run id"
    raise UsageError(f"run: found no run {text!r} below {where}; allowed: {allowed}.{hint}")


def _below(path: str, roots: Sequence[Path]) -> str:
    for root in roots:
        try:
            return str(Path(path).relative_to(root.absolute()))
        except ValueError:
            continue
    return path
