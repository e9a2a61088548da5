"""Which device a side job sees: the one that the hosts registry gives to its role on this machine. (specs/guild.md 2.1.10, G15)"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from guild.hosts.registry import load_registry
from guild.places import Places
from guild.records.kinds import kind_of

VISIBLE = "CUDA_VISIBLE_DEVICES"


def environment_for(places: Places, kind: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a side job's process: `given` (this process's when None) in which only its role's GPU is visible, or none.

    A kind that needs no device sees none. Raises RefusedError when the registry names no device for the role.
    """
    environment = dict(os.environ if given is None else given)
    resource = kind_of(kind).resource
    device = "cpu" if resource == "cpu" else load_registry(places).device(resource)
    environment[VISIBLE] = visible(device, environment.get(VISIBLE))
    return environment


def visible(device: str, already: str | None) -> str:
    """The value of `CUDA_VISIBLE_DEVICES` for a torch device. already: the value around, whose n-th entry `cuda:n` means."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return ""
    number = int(match[1] or 0)
    entries = [entry.strip() for entry in already.split(",") if entry.strip()] if already is not None else None
    if entries is None:
        return str(number)
    return entries[number] if number < len(entries) else ""
