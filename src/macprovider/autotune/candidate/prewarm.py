"""Weights into the local cache before anything is measured: a child of its own that fetches them. (specs/autotune.md, 7)"""

from __future__ import annotations

import re
from pathlib import Path

from macprovider.autotune.candidate.provider import end_group, exit_status, start_child
from macprovider.autotune.session import Session

READY, TRANSIENT, INTEGRITY = 0, 4, 7
"""Exit statuses of `models pull`."""
WHY_CHARACTERS = 400
STOP_GRACE_S = 5.0
"""A fetch is resumed by the next one; it needs no long good-bye."""


class TransientFailure(Exception):
    """The weights could not be fetched now; another model may be tried."""


class CorruptWeights(Exception):
    """The weights are not what they should be; nothing may be tried any more."""


def prewarm(session: Session, model: str) -> None:
    """Fetch what is missing, within the run's budget. Raises TransientFailure or CorruptWeights with the reason, and like
    `Watch.check`. An exit status that means neither counts as transient: nothing says that the weights are wrong.
    """
    log = session.log_for(1, f"{model}-pull")
    try:
        process, pipe = start_child(session.world.pull(model), log, offline=False)
    except OSError as error:
        raise TransientFailure(f"the command that fetches weights does not start: {error}") from error
    began = session.watch.clock.monotonic()
    try:
        while process.poll() is None:
            session.watch.pause(0.05)
    finally:
        end_group(process, pipe, min(STOP_GRACE_S, session.options.candidate_grace_s), session.watch)
    rc = exit_status(process.returncode)
    session.detail(f"    weights: fetch ended with {rc} after {session.watch.clock.monotonic() - began:.1f}s")
    if rc == READY:
        return
    why = _last_line(log) or f"models pull ended with {rc} and said nothing"
    if rc == INTEGRITY:
        raise CorruptWeights(why)
    raise TransientFailure(why if rc == TRANSIENT else f"{why} (exit status {rc})")


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace")) if line.strip()]
    except OSError:
        return ""
    return lines[-1][:WHY_CHARACTERS] if lines else ""
