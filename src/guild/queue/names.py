"""Which names the queue accepts, and what it says about everything else that lies in its folders. (specs/guild.md 3.3, 4.10)"""

from __future__ import annotations

import re

from guild.errors import RefusedError

SUFFIX = ".jsonl"
SIDECAR_SUFFIX = ".meta.json"
MAX_NAME_BYTES = 200
"""Longest name in UTF-8, so that the sidecar's and the completed file's names fit into 255 bytes."""

_UNFINISHED = re.compile(r"\.(?:tmp|temp|part|partial|crdownload|swp|filepart)$|~$", re.IGNORECASE)


def shown(name: str) -> str:
    """A name on one line of any terminal: what cannot be printed appears as its escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in name)


def name_fault(name: str) -> str | None:
    """One sentence on why a file of that name cannot be queued; None when it can. Spaces and letters of any script are fine."""
    if not name.endswith(SUFFIX) or name == SUFFIX:
        return f"{shown(name)}: found a name that does not end in {SUFFIX}; allowed: one JSON object per line in a file NAME{SUFFIX}."
    if name.startswith("."):
        return f"{shown(name)}: found a hidden name; allowed: a name that begins with another character than a dot. Rename the file."
    if "/" in name or not name.isprintable():
        return f"{shown(name)}: found a character that cannot be shown in the name; allowed: printable characters. Rename the file."
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"{shown(name)}: found a name of {len(name.encode())} bytes; allowed: {MAX_NAME_BYTES}. Give the file a shorter name."
    return None


def usable_name(name: str) -> str:
    """`name` when it may be queued. Raises RefusedError with the sentence of `name_fault`."""
    fault = name_fault(name)
    if fault:
        raise RefusedError(fault)
    return name


def is_sidecar(name: str) -> bool:
    """Whether the name is that of a data file's lineage sidecar."""
    return name.endswith(SUFFIX + SIDECAR_SUFFIX)


def is_unfinished(name: str) -> bool:
    """Whether some program is probably still writing the file under this name."""
    return name.startswith(".") or _UNFINISHED.search(name) is not None


def odd_thing(where: str, kind: str) -> str:
    """The sentence for what is no plain file. where: `normal/NAME`. kind: `a folder`, `a symbolic link` or `a special file`."""
    todo = {
        "a folder": "Move its files up, or into inbox/, whose sub-folders are flattened.",
        "a symbolic link": "Put the file itself there.",
    }.get(kind, "Remove it.")
    return f"queue/{shown(where)}: found {kind}; allowed: plain {SUFFIX} files. {todo}"
