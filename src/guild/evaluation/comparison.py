"""What training changed: a `base_*` baseline against a `trained_*` one, as `skill_metrics` shows it. (specs/guild.md 2.7, 4.7)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.evaluation.baselines import CATEGORIES, baseline_path, read_baseline, tags
from guild.evaluation.families import FAMILIES
from guild.evaluation.stories import TASKS
from guild.places import Places
from modelwright.errors import MissingFileError

BASE, TRAINED = "base_", "trained_"
COMPARABLE = ("samples", "sets", "judge")
"""Settings that must agree for a difference to mean anything."""
_CATEGORY = {**{family.name: "primitives" for family in FAMILIES}, **{task.name: "benchmarks" for task in TASKS}}


def skill_metrics(places: Places, base: str | None = None, trained: str | None = None) -> dict[str, Any]:
    """The payload of `skill_metrics`: `available_versions, skill_categories, base_model, trained_model, versions, skills{name: {base,
    trained, improvement, category}}, summary{trained, primitives, benchmarks}`, and `warnings`.

    base, trained: tags; the newest document of each kind when None. What was not measured is None, never 0. Raises MissingFileError for
    a tag that is not there, DamagedFileError.
    """
    documents = {tag: read_baseline(baseline_path(places, tag)) or {} for tag in tags(places)}
    for tag in (base, trained):
        if tag is not None and tag not in documents:
            raise MissingFileError(f"There is no baseline {tag!r}; found: {', '.join(documents) or 'none'}.", baseline_path(places, tag))
    first, then = base or _newest(documents, BASE), trained or _newest(documents, TRAINED)
    one, other = documents.get(first or "", {}), documents.get(then or "", {})
    skills = compare(one, other)
    return {
        "available_versions": sorted(documents),
        "skill_categories": {
            category: [name for name, entry in skills.items() if entry["category"] == category] for category in CATEGORIES
        },
        "base_model": first,
        "trained_model": then,
        "versions": {tag: {"timestamp": content.get("timestamp"), "summary": content.get("summary")} for tag, content in documents.items()},
        "skills": skills,
        "summary": {"trained": then, **{category: averages(skills, category) for category in CATEGORIES}},
        "warnings": _warnings(one, other),
    }


def compare(base: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → base, trained and improvement (all shares from 0 to 1; None where one was not measured), category."""
    before, after = base.get("skills", {}), trained.get("skills", {})
    found = {}
    for name in dict.fromkeys([*before, *after]):
        a, b = _accuracy(before.get(name)), _accuracy(after.get(name))
        category = (after.get(name) or before.get(name) or {}).get("category") or _CATEGORY.get(name, "benchmarks")
        found[name] = {"base": a, "trained": b, "improvement": None if a is None or b is None else b - a, "category": category}
    return found


def averages(skills: Mapping[str, Mapping[str, Any]], category: str) -> dict[str, Any]:
    """`base_avg, trained_avg, delta, count` over the kinds of a category that both have."""
    both = [one for one in skills.values() if one["category"] == category and one["improvement"] is not None]
    if not both:
        return {"base_avg": None, "trained_avg": None, "delta": None, "count": 0}
    before, after = (sum(one[word] for one in both) / len(both) for word in ("base", "trained"))
    return {"base_avg": before, "trained_avg": after, "delta": after - before, "count": len(both)}


def _accuracy(entry: Mapping[str, Any] | None) -> float | None:
    found = None if entry is None else entry.get("accuracy")
    return float(found) if isinstance(found, int | float) else None


def _newest(documents: Mapping[str, Mapping[str, Any]], prefix: str) -> str | None:
    found = [(str(content.get("timestamp", "")), tag) for tag, content in documents.items() if tag.startswith(prefix)]
    return max(found)[1] if found else None


def _warnings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Why the two are not quite comparable, one sentence each."""
    told = [f"The baseline {content['tag']} is not complete." for content in (one, other) if content.get("complete") is False]
    mine, theirs = one.get("settings"), other.get("settings")
    if one and other and isinstance(mine, dict) and isinstance(theirs, dict):
        told += [
            f"The two differ in {name}: {mine.get(name)} and {theirs.get(name)}."
            for name in COMPARABLE
            if mine.get(name) != theirs.get(name)
        ]
    return told
