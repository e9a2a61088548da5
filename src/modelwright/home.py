"""Where the state that belongs to no single run lives: `MODELWRIGHT_HOME`, default `~/.modelwright`.

Nothing here creates a folder by being read; `ensure_folder` does, with mode 0700, because tokens live below it.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelwright.errors import storage_error

VARIABLE = "MODELWRIGHT_HOME"


def home() -> Path:
    """The home folder as an absolute path; read from the environment at every call so that a test can move it."""
    named = os.environ.get(VARIABLE, "").strip()
    return Path(named).expanduser().absolute() if named else Path.home() / ".modelwright"


def home_path(*parts: str) -> Path:
    """A path below the home folder, for example `home_path("cache", "datasets")`. Creates nothing."""
    return home().joinpath(*parts)


def index_path() -> Path:
    """The rebuildable SQLite index of runs."""
    return home_path("index.db")


def cache_folder() -> Path:
    """Derived data that may be deleted at any time."""
    return home_path("cache")


def tokens_path() -> Path:
    """The read and admin keys of every HTTP surface, a file of mode 0600 (see `modelwright.tokens`)."""
    return home_path("tokens.json")


def ensure_folder(path: Path) -> Path:
    """Create `path` (mode 0700) when it is missing and return it. Raises StorageError with the reason when that
    fails."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path, "create the folder") from error
    return path
