"""Whether the process that a pid file names lives. The file holds a process identity as JSON; the original's bare pid is read too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelwright.identity import ProcessIdentity, liveness, process_start


@dataclass(frozen=True)
class PidFile:
    """state: `unknown` where neither life nor death can be shown, for example a bare pid that may have been given to another process.
    detail: what was seen, a few words."""

    state: Literal["alive", "dead", "unknown"]
    detail: str


def look(path: Path) -> PidFile:
    """Read a pid file; a missing one means that nobody runs."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return PidFile("dead", f"{path} is not there")
    except OSError as error:
        return PidFile("unknown", f"{path} cannot be read ({error.strerror})")
    try:
        content = json.loads(text)
        if isinstance(content, int):
            running = process_start(content) is not None
            return PidFile("unknown", f"{path} holds a bare pid") if running else PidFile("dead", f"process {content} is gone")
        identity = ProcessIdentity.from_dict(content)
    except ValueError:
        return PidFile("unknown", f"{path} holds no process identity")
    seen = liveness(identity)
    if seen == "unreachable":
        return PidFile("unknown", f"process {identity.pid} cannot be seen from here")
    return PidFile("alive", f"process {identity.pid} lives") if seen == "alive" else PidFile("dead", f"process {identity.pid} is gone")
