"""Where downloaded weights lie: the Hugging Face cache folder, worked out without importing the hub's client. (spec 7.1, D17)"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of cached repositories, absolute and with links resolved; it need not exist.

    The order is that of huggingface_hub: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`/hub,
    `XDG_CACHE_HOME`/huggingface/hub, `~/.cache/huggingface/hub`.
    """
    found = os.environ if environment is None else environment
    home = found.get("HF_HOME", os.path.join(found.get("XDG_CACHE_HOME", os.path.join("~", ".cache")), "huggingface"))
    default = os.path.join(_expanded(home), "hub")
    named = found.get("HF_HUB_CACHE", found.get("HUGGINGFACE_HUB_CACHE", default))
    return Path(_expanded(named)).resolve()


def moved_since(previous: str | None, current: Path) -> str:
    """One sentence when the last run read its weights elsewhere, else "". previous: as the last run stored it, None for none."""
    if not previous or Path(previous) == current:
        return ""
    return (
        f"The weight cache is {current} but the previous run used {previous}: models may be fetched again; "
        "set HF_HOME or HF_HUB_CACHE to keep one place."
    )


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))
