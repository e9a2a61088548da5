"""Quality checks of new rows, by profile, as pure functions. (specs/guild.md 2.4)

    verdict = check_quality(rows, quality_profile("bin"))

Every check passes or fails with a detail; none failed: APPROVED; one or two: CONDITIONAL, queued with a warning; more: REJECTED.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from guild.errors import UnknownSkillError
from guild.skills.names import canonical
from guild.validation.deep.encoding import find_damaged_text
from guild.validation.deep.views import view_of
from guild.validation.rows import validate_row
from guild.validation.schemas import DEFAULT_SCHEMA, schema_of
from modelwright.errors import ConfigError, Fault

Outcome = Literal["APPROVED", "CONDITIONAL", "REJECTED"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Row = Mapping[str, Any]

CHARACTERS_PER_TOKEN = 4
FORMAT_ROWS, FORMAT_SHARE = 100, 0.95
LONG_SHARE = 0.05
"""Tolerated share of rows above the longest length."""
PREFIX_CHARACTERS, DISTINCT_SHARE = 100, 0.80
BALANCE_ROWS, BALANCE_RANGE = 1000, (0.8, 1.2)
ISSUE_SHARE = 0.05
CONDITIONAL_FAILURES = 2
_PLACEHOLDER = re.compile(
    r"\b(?:TODO|FIXME|lorem ipsum|placeholder)\b|\[(?:insert|your)\b|^Traceback \(most recent call last\)", re.I | re.M
)


@dataclass(frozen=True)
class QualityProfile:
    """What rows of a skill should be like. least, most: length of a row in tokens, taken as characters/4; short_share: rows that may be
    shorter. diversity: whether questions must differ within their first 100 characters."""

    name: str
    least: int
    most: int
    short_share: float
    diversity: bool = False


PROFILES: Mapping[str, QualityProfile] = {
    "syllo": QualityProfile("syllo", 20, 2048, 0.10, diversity=True),
    "binary": QualityProfile("binary", 5, 512, 0.50),
    "sparring": QualityProfile("sparring", 5, 2048, 0.50),
}
_OF_SKILL = {"sy": "syllo", "bin": "binary", "sparring": "sparring"}


@dataclass(frozen=True)
class CheckResult:
    """One check. value: what was measured, None where it has no number. detail: a sentence for people."""

    name: str
    passed: bool
    value: float | None
    detail: str


@dataclass(frozen=True)
class QualityVerdict:
    """outcome, and the checks it rests on. score: share of checks passed, 0 to 1."""

    outcome: Outcome
    checks: tuple[CheckResult, ...]
    profile: str
    rows: int

    @property
    def score(self) -> float:
        return sum(one.passed for one in self.checks) / len(self.checks)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(one for one in self.checks if not one.passed)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "outcome": self.outcome,
            "profile": self.profile,
            "rows": self.rows,
            "score": self.score,
            "checks": {one.name: {"passed": one.passed, "value": one.value, "detail": one.detail} for one in self.checks},
        }


def quality_profile(skill: str, stated: Any = None) -> QualityProfile:
    """The profile of a skill. stated: `quality` of its skill file, for skills that users add: the name of a profile, or its fields.

    Raises UnknownSkillError for a skill that has none, ConfigError with every fault of one that is stated.
    """
    name = canonical(skill)
    if stated is None:
        if name not in _OF_SKILL:
            where = f"the quality profiles; state `quality` in configs/skills/{name}.yaml"
            raise UnknownSkillError(skill, tuple(_OF_SKILL), where=where)
        return PROFILES[_OF_SKILL[name]]
    if isinstance(stated, str):
        if stated not in PROFILES:
            raise ConfigError([Fault(f"{name}.yaml quality", repr(stated), f"{', '.join(PROFILES)}, or the fields of a profile")])
        return PROFILES[stated]
    return _stated(name, stated)


def check_quality(rows: Sequence[Row], profile: QualityProfile) -> QualityVerdict:
    """The verdict on chat rows. Rows that are not well formed count in `format` alone; no rows at all are rejected."""
    schema = schema_of(DEFAULT_SCHEMA)
    sound = [row for row in rows if not validate_row(row, schema)]
    checks = [_format(rows[:FORMAT_ROWS], schema)]
    for check in _CHECKS:
        checks.append(check(sound, profile))
    if not profile.diversity:
        checks = [one for one in checks if one.name != "diversity"]
    failures = sum(not one.passed for one in checks)
    outcome: Outcome = "APPROVED" if not failures else "CONDITIONAL" if failures <= CONDITIONAL_FAILURES else "REJECTED"
    return QualityVerdict("REJECTED" if not sound else outcome, tuple(checks), profile.name, len(rows))


def _format(rows: Sequence[Row], schema: Any) -> CheckResult:
    good = sum(not validate_row(row, schema) for row in rows)
    share = good / len(rows) if rows else 0.0
    return CheckResult("format", bool(rows) and share >= FORMAT_SHARE, share, f"{good} of the first {len(rows)} rows are well formed.")


def _length(rows: Sequence[Row], profile: QualityProfile) -> CheckResult:
    lengths = [sum(len(message["content"]) for message in row["messages"]) / CHARACTERS_PER_TOKEN for row in rows]
    short = sum(one < profile.least for one in lengths) / max(1, len(lengths))
    long = sum(one > profile.most for one in lengths) / max(1, len(lengths))
    text = f"{short:.1%} of the rows are shorter than {profile.least} tokens ({profile.short_share:.0%} may be), "
    text += f"{long:.1%} longer than {profile.most} ({LONG_SHARE:.0%} may be)."
    return CheckResult("length", bool(rows) and short <= profile.short_share and long <= LONG_SHARE, max(short, long), text)


def _diversity(rows: Sequence[Row], profile: QualityProfile) -> CheckResult:
    prefixes = {_first(row, "user")[:PREFIX_CHARACTERS] for row in rows}
    share = len(prefixes) / len(rows) if rows else 0.0
    text = f"{share:.1%} of the questions differ within their first {PREFIX_CHARACTERS} characters; {DISTINCT_SHARE:.0%} should."
    return CheckResult("diversity", share >= DISTINCT_SHARE, share, text)


def _balance(rows: Sequence[Row], profile: QualityProfile) -> CheckResult:
    roles = [message["role"] for row in islice(rows, BALANCE_ROWS) for message in row["messages"]]
    asked = roles.count("user")
    ratio = roles.count("assistant") / asked if asked else None
    low, high = BALANCE_RANGE
    text = f"There are {'no questions' if ratio is None else f'{ratio:.2f} replies to a question'}; allowed: {low} to {high}."
    return CheckResult("balance", ratio is not None and low <= ratio <= high, ratio, text)


def _content(rows: Sequence[Row], profile: QualityProfile) -> CheckResult:
    issues = [found for row in rows if (found := issue_of(row))]
    share = len(issues) / len(rows) if rows else 1.0
    text = f"{share:.1%} of the rows have an issue; less than {ISSUE_SHARE:.0%} may."
    return CheckResult("content", share < ISSUE_SHARE, share, f"{text} The first: {issues[0]}." if issues else text)


_CHECKS: tuple[Callable[[Sequence[Row], QualityProfile], CheckResult], ...] = (_length, _diversity, _balance, _content)


def issue_of(row: Row) -> str | None:
    """What is wrong with the texts of a well-formed row, in words; None when nothing is."""
    view = view_of(row, "messages")
    for text in view.contents:
        if not text.strip():
            return "a blank message"
        found = _PLACEHOLDER.search(text)
        if found:
            return f"a placeholder, {found[0]!a}"
    if any(reply.strip() == view.asked.strip() for reply in view.replies):
        return "a reply that repeats its question"
    return find_damaged_text(view)


def _first(row: Row, role: str) -> str:
    return next((str(message["content"]) for message in row["messages"] if message["role"] == role), "")


def _stated(name: str, stated: Any) -> QualityProfile:
    where = f"{name}.yaml quality"
    if not isinstance(stated, dict):
        raise ConfigError([Fault(where, repr(stated)[:60], f"{', '.join(PROFILES)}, or least, most, short_share and diversity")])
    faults = [Fault(f"{where}.{key}", "an unknown field", "least, most, short_share, diversity") for key in stated if key not in _FIELDS]
    values = {**_FIELDS, **{key: value for key, value in stated.items() if key in _FIELDS}}
    for key in ("least", "most"):
        if isinstance(values[key], bool) or not isinstance(values[key], int) or values[key] < 1:
            faults.append(Fault(f"{where}.{key}", repr(values[key])[:60], "tokens, a whole number of at least 1"))
    share = values["short_share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        faults.append(Fault(f"{where}.short_share", repr(share)[:60], "a share from 0 to 1"))
    if not isinstance(values["diversity"], bool):
        faults.append(Fault(f"{where}.diversity", repr(values["diversity"])[:60], "true or false"))
    if not faults and values["least"] > values["most"]:
        faults.append(Fault(f"{where}.least", str(values["least"]), f"at most {values['most']}, which is `most`"))
    if faults:
        raise ConfigError(faults)
    return QualityProfile(name, **values)


_FIELDS: dict[str, Any] = {"least": 5, "most": 2048, "short_share": 0.5, "diversity": False}
"""Fields of a stated profile with their defaults."""
