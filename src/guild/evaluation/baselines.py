"""Transfer baselines as documents: `status/baselines/baseline_<tag>.json`. (specs/guild.md 4.7, 3.7)

    tag, timestamp, samples_per_skill, skills{name: {skill, category, total, correct, errors[≤3], accuracy, avg_time, unanswered}},
    summary{primitives{count, avg_accuracy}, babi{count, avg_accuracy}}

and what makes two of them comparable: `settings`. `complete` is false while kinds of problems are missing. What is measured again stands
beside it as `baseline_<tag>.partial.json` until it is complete; then it takes the place of what it measured and of nothing else. A document
of other settings is replaced whole or not at all: kinds that would be lost are a refusal before anything is asked.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from guild.errors import RefusedError
from guild.evaluation.measuring import Measured
from guild.places import Places
from guild.records.status_documents import export, read_document
from modelwright.clock import Clock, stamp
from modelwright.errors import DamagedFileError, MissingFileError, UsageError

Category = Literal["primitives", "benchmarks", "binary", "syllo_10level"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Mode = Literal["both", "primitives", "benchmarks", "skills", "all"]
MODES: dict[Mode, tuple[Category, ...]] = {
    "both": ("primitives", "benchmarks"),
    "primitives": ("primitives",),
    "benchmarks": ("benchmarks",),
    "skills": ("binary", "syllo_10level"),
    "all": CATEGORIES,
}
"""What each mode measures. `skills`: problems of the skills, by difficulty and by level."""
SUMMARY_NAMES: dict[Category, str] = {
    "primitives": "primitives", "benchmarks": "babi", "binary": "binary", "syllo_10level": "syllo_10level",
}  # fmt: skip
"""Category → its name in `summary`."""
MOST_ERRORS = 3
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"baseline_(.+)\.json")


def check_tag(tag: str) -> str:
    """The tag itself. Raises UsageError for one that is no file name."""
    if not _TAG.fullmatch(tag) or tag.endswith(".partial"):
        raise UsageError(
            f"--tag: found {tag!r}; allowed: letters, digits, dots, dashes and underscores, such as base_0.6b or trained_5000."
        )
    return tag


def baseline_path(places: Places, tag: str) -> Path:
    """Where the document of a tag lies."""
    return places.baselines / f"baseline_{check_tag(tag)}.json"


def partial_path(places: Places, tag: str) -> Path:
    """Where a new one grows while another one of that tag stands."""
    return places.baselines / f"baseline_{check_tag(tag)}.partial.json"


def read_baseline(path: Path) -> dict[str, Any] | None:
    """A document; None when there is none. Raises DamagedFileError."""
    try:
        content = read_document(path)
    except MissingFileError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("skills"), dict):
        raise DamagedFileError(path, "it has no skills", "a baseline", "Move it away, or give another --tag")
    return content


def tags(places: Places) -> list[str]:
    """The tags of all documents that are not partial."""
    found = (_FILE.fullmatch(path.name) for path in sorted(places.baselines.glob("baseline_*.json")))
    return [match[1] for match in found if match and not match[1].endswith(".partial")]


@dataclass
class Growing:
    """A baseline while it is made. settings: model, samples, seed, sets: what must be equal to go on with an older one. path: where it
    is written now; final: where it ends. kept: kinds of the standing document that this run does not measure. system_prompt: under which
    it is asked."""

    tag: str
    settings: Mapping[str, Any]
    path: Path
    final: Path
    clock: Clock
    system_prompt: str = ""
    skills: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Kinds of problems still to be asked."""
        return [name for name in self.wanted if name not in self.skills]

    def add(self, name: str, category: Category, measured: Measured) -> None:
        """Add one kind and write the document, durably."""
        self.skills[name] = scores(name, category, measured)
        self._write()

    def finish(self) -> Path:
        """Give the document its final name; returns it."""
        if self.path != self.final:
            self.skills = {**self.kept, **self.skills}
            self._write(self.final)
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        elif not self.final.exists():
            self._write()
        return self.final

    def _write(self, path: Path | None = None) -> None:
        content = document(self.tag, self.settings, self.skills, complete=not self.missing(), timestamp=stamp(self.clock.now()))
        export(path or self.path, {**content, "system_prompt": self.system_prompt})


def begin(
    places: Places, tag: str, settings: Mapping[str, Any], wanted: Mapping[str, Category], clock: Clock, system_prompt: str = ""
) -> Growing:
    """A new baseline, or an unfinished one with the same settings to go on with. wanted: kinds to measure, and the category of each.

    Writes nothing. Raises DamagedFileError, and RefusedError when a standing document of other settings holds a category that this run
    would not measure again.
    """
    final, beside = baseline_path(places, tag), partial_path(places, tag)
    standing, partial = read_baseline(final), read_baseline(beside)
    growing = Growing(tag, settings, final, final, clock, system_prompt, wanted=tuple(wanted))
    if standing is None:
        return growing
    same = standing.get("settings") == dict(settings)
    if same and any(name not in standing["skills"] for name in wanted):
        growing.skills = dict(standing["skills"])  # it lacks some of what is asked for: only adds to it
        return growing
    others = {name: entry for name, entry in standing["skills"].items() if name not in wanted}
    if same:
        growing.kept = others
    else:
        _refuse_loss(tag, others, set(wanted.values()), _differing(standing.get("settings"), settings))
    growing.path = beside
    if partial is not None and partial.get("settings") == dict(settings):
        growing.skills = dict(partial["skills"])
    return growing


def _refuse_loss(tag: str, others: Mapping[str, dict[str, Any]], measured: set[Category], differing: str) -> None:
    lost = [name for name, entry in others.items() if entry.get("category") not in measured]
    if lost:
        what = ", ".join(sorted({str(others[name].get("category") or "no category") for name in lost}))
        raise RefusedError(
            f"--tag: found {tag}, whose {len(lost)} results of {what} were measured with other settings ({differing}) and would be lost; "
            "allowed: a --mode that measures them again, or another --tag."
        )


def _differing(former: Any, settings: Mapping[str, Any]) -> str:
    known = former if isinstance(former, Mapping) else {}
    return ", ".join(name for name, value in settings.items() if known.get(name) != value)


def scores(name: str, category: Category, measured: Measured) -> dict[str, Any]:
    """One kind of problems in the document. avg_time: seconds for one question. errors: the first wrong answers."""
    wrong = [one for one in measured.asked if one.verdict is not None and not one.verdict.correct][:MOST_ERRORS]
    return {
        "skill": name,
        "category": category,
        "total": measured.total,
        "correct": measured.correct,
        "errors": [
            {"prompt": one.question.prompt, "expected": one.question.expected, "got": (one.reply or "")[:500], "reason": one.verdict.reason}
            for one in wrong
            if one.verdict is not None
        ],
        "accuracy": measured.correct / measured.total,
        "avg_time": measured.seconds / len(measured.asked),
        "unanswered": measured.unanswered,
    }


def document(
    tag: str, settings: Mapping[str, Any], skills: Mapping[str, dict[str, Any]], *, complete: bool, timestamp: str
) -> dict[str, Any]:
    """The fields of 4.7 and our own."""
    return {
        "tag": tag,
        "timestamp": timestamp,
        "samples_per_skill": settings["samples"],
        "complete": complete,
        "settings": dict(settings),
        "skills": dict(skills),
        "summary": {SUMMARY_NAMES[category]: summary(skills, category) for category in CATEGORIES},
    }


def summary(skills: Mapping[str, dict[str, Any]], category: Category) -> dict[str, Any]:
    """`count` kinds and the mean of their accuracies, None without any."""
    found = [one["accuracy"] for one in skills.values() if one.get("category") == category]
    return {"count": len(found), "avg_accuracy": sum(found) / len(found) if found else None}
