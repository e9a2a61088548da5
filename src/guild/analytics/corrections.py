"""Self-correction: what went wrong, in which ways, and what was made of it. (specs/guild.md 2.7 row self_correction, 6.4)

The errors are the wrong answers that evaluations recorded; a pattern is a way in which at least two of them are wrong; corrections are
the rows that sparring made of wrong answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from guild.analytics.documents import NO_DATA
from guild.analytics.mining import category
from guild.analytics.sources import Problem

TOP = 10
REPEATED = 2
ROWS_PER_ERROR = 3
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|“[^”]*”")
_NUMBER = re.compile(r"[⓪①\d]+(?:\.\d+)?")
_EXPECTED = re.compile(r"^expected .*?, found .*$", re.DOTALL)


def self_correction(problems: Sequence[Problem], sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`errors_captured, patterns_found, corrections_generated, top_error_patterns, total_corrections`.

    problems: those of the evaluations looked at; errors_captured and the patterns are null without any. sessions: of sparring, the newest
    first; corrections_generated is of the newest, total_corrections of all that are kept, both null without a session.
    """
    wrong = [problem for problem in problems if not problem.correct]
    patterns = Counter(pattern_of(problem) for problem in wrong)
    repeated = [(name, count) for name, count in sorted(patterns.items(), key=lambda entry: (-entry[1], entry[0])) if count >= REPEATED]
    made = [rows for session in sessions if (rows := rows_of(session)) is not None]
    return {
        "status": "ok" if problems or sessions else NO_DATA,
        "errors_captured": len(wrong) if problems else None,
        "patterns_found": len(repeated) if problems else None,
        "top_error_patterns": [
            {"pattern": name, "count": count, "share": count / len(wrong)} for name, count in repeated[:TOP]
        ],
        "corrections_generated": rows_of(sessions[0]) if sessions else None,
        "total_corrections": sum(made) if made else None,
        "sessions": len(sessions),
        "last_session": str(sessions[0].get("timestamp") or "") or None if sessions else None,
    }  # fmt: skip


def pattern_of(problem: Problem) -> str:
    """The category and the judge's reason with its particulars taken out: quoted texts, numbers and digits of either kind."""
    reason = " ".join(problem.reason.split())
    if not problem.answer.strip():
        reason = "no answer"
    elif not reason or _EXPECTED.match(reason):
        reason = "another answer than expected"
    else:
        reason = _NUMBER.sub("N", _QUOTED.sub("…", reason))[:160]
    return f"{category(problem)}: {reason}"


def rows_of(session: Mapping[str, Any]) -> int | None:
    """Training rows that a sparring session made; of one that only tells its wrong answers, three for each. None when it tells neither."""
    rows, wrong = session.get("training_examples"), session.get("incorrect")
    if isinstance(rows, int):
        return rows
    return wrong * ROWS_PER_ERROR if isinstance(wrong, int) else None
