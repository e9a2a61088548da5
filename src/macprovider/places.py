"""Where the provider keeps its things: the seed's folders below the user's home. Nothing here creates anything."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG_VARIABLE = "MACPROVIDER_CONFIG"


def config_path() -> Path:
    """The settings file: `MACPROVIDER_CONFIG`, else `~/.config/macprovider/config.yaml`."""
    named = os.environ.get(CONFIG_VARIABLE, "").strip()
    return Path(named).expanduser().absolute() if named else config_folder() / "config.yaml"


def config_folder() -> Path:
    """`~/.config/macprovider`."""
    return Path("~/.config/macprovider").expanduser()


def database_path() -> Path:
    """The tuning database."""
    return config_folder() / "autotune.sqlite"


def cache_folder() -> Path:
    """`~/.cache/macprovider`: logs of candidates, exported weights."""
    return Path("~/.cache/macprovider").expanduser()


def logs_folder() -> Path:
    """One full log for each candidate that was started."""
    return cache_folder() / "autotune-logs"
