"""The telegram: the run's latest verdict as a small JSON document, `telegram.json`.

Three fields are the seed's: action, reason and step (a string). A `TelegramContext` adds run, phase, rung, time, triggers,
the canonical sentence and what is recommended.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from scaler_wizard.sentences import canonical_sentence

Action = Literal["continue", "warn", "stop"]
Recommended = Literal["none", "rollback", "abort"]
STATUS_OF_ACTION: dict[str, str] = {"continue": "running", "warn": "warning", "stop": "stopped"}


class Telegram(TypedDict):
    """The document; the last seven fields are there when the run is known."""

    action: Action
    reason: str
    step: str
    run_id: NotRequired[str]
    phase: NotRequired[int]
    rung: NotRequired[int | None]
    timestamp: NotRequired[str]
    triggers: NotRequired[list[str]]
    canonical_sentence: NotRequired[str]
    recommended: NotRequired[Recommended]


@dataclass
class TelegramContext:
    """Where the run stands; the pipeline updates `phase` (0..4) and `rung` (tokens) as it goes."""

    run_id: str
    phase: int = 0
    rung: int | None = None
    language: str = "en-US"
    canonical: str | None = None  # the job's own sentence, when it has one
    rollback_possible: bool = False


def build_telegram(
    action: Action,
    reason: str,
    step: int | str,
    *,
    triggers: Sequence[str] = (),
    context: TelegramContext | None = None,
    sentence: str | None = None,
    recommended: Recommended | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """A telegram as plain data; without `context` it holds the seed's three fields only."""
    telegram: dict[str, Any] = {"action": action, "reason": reason, "step": str(step)}
    if context is None:
        return telegram
    advice = recommended or _advice(action, context)
    moment = (at or datetime.now(UTC)).astimezone(UTC)
    telegram.update(
        run_id=context.run_id,
        phase=context.phase,
        rung=context.rung,
        timestamp=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        triggers=list(triggers),
        canonical_sentence=sentence or _sentence(action, reason, step, advice, context),
        recommended=advice,
    )
    return telegram


def _advice(action: Action, context: TelegramContext) -> Recommended:
    if action != "stop":
        return "none"
    return "rollback" if context.rollback_possible else "abort"


def _sentence(action: Action, reason: str, step: int | str, advice: Recommended, context: TelegramContext) -> str:
    language, own = context.language, context.canonical
    if action == "stop":
        return canonical_sentence("stop", language, own, step=step, reason=reason, action=advice)
    if action == "warn":
        return canonical_sentence("warn", language, own, step=step, reason=reason)
    return canonical_sentence("running", language, own, context=context.rung or "base", phase=f"P{context.phase}")


def write_telegram(path: str | Path, telegram: dict[str, Any]) -> None:
    """Replace `telegram.json` whole (temporary file, fsync, rename)."""
    from modelwright.files import write_json

    write_json(Path(path), telegram)


def print_telegram(line: str) -> None:
    """The default printer: one JSON line on standard output, at once."""
    print(line, flush=True)


def print_telegram_to_stderr(line: str) -> None:
    """The printer of `--json` runs, whose standard output belongs to the summary."""
    print(line, file=sys.stderr, flush=True)
