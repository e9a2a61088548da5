"""`data_file_summary.json`: what each training file did, its attempts joined, with the accuracies that were measured later. (2.9)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from guild.analytics.documents import NO_DATA, mean
from guild.analytics.impact_score import Measurement, delta, impact_score

SHOWN = 10
RECENT = 20
_ENDS = ("loss", "accuracy", "val_loss")
Accuracy = Callable[[str | None, int | None, int], float | None]
"""(skill, level, step) → the accuracy measured on that checkpoint, None when it was not."""


def with_accuracy(record: Mapping[str, Any], accuracy: Accuracy) -> dict[str, Any]:
    """The record scored again with the evaluation of its last checkpoint, which follows a file's end by a while."""
    if record.get("accuracy_after") is not None or not record.get("steps_trained"):
        return dict(record)
    found = accuracy(record.get("skill"), record.get("level"), int(record["end_step"]))
    return dict(record) if found is None else scored({**record, "accuracy_after": found})


def scored(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with differences, score and class that follow from its two ends."""
    before, after = (Measurement(**{name: record.get(f"{name}_{end}") for name in _ENDS}) for end in ("before", "after"))
    score = impact_score(before, after)
    deltas = {f"{name}_delta": delta(record.get(f"{name}_before"), record.get(f"{name}_after")) for name in _ENDS}
    return {
        **record, **deltas, "impact_score": score.value, "score_terms": list(score.terms), "classification": score.classification
    }  # fmt: skip


def joined(attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The attempts at one file as one record: before the first, after the last. When other files were trained in between, what lies
    between the two ends is not this file's doing alone, so there is no score."""
    first, last = attempts[0], attempts[-1]
    if len(attempts) == 1:
        return {**first, "attempts": 1}
    whole = all(one.get("end_step") == next.get("start_step") for one, next in pairwise(attempts))
    starts = {f"{name}_before": first.get(f"{name}_before") if whole else None for name in _ENDS}
    counts = [one["examples_count"] for one in attempts if one.get("examples_count") is not None]
    together = {
        **last, **starts, "start_step": first.get("start_step"), "start_timestamp": first.get("start_timestamp"),
        "steps_trained": sum(int(one.get("steps_trained") or 0) for one in attempts),
        "examples_count": sum(counts) if counts else None, "attempts": len(attempts), "interrupted": not whole,
    }  # fmt: skip
    return scored(together)


def by_file(records: Sequence[Mapping[str, Any]], accuracy: Accuracy) -> list[dict[str, Any]]:
    """One record for each file (job), in the order of their last attempts. Records of the original system stand for themselves."""
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for number, record in enumerate(records):
        key = record.get("job") if record.get("job") is not None else f"line {number}"
        groups[key] = [*groups.pop(key, []), record]  # moves the file to the end
    return [with_accuracy(joined(attempts), accuracy) if "end_step" in attempts[-1] else joined(attempts) for attempts in groups.values()]


def summarise(records: Sequence[Mapping[str, Any]], accuracy: Accuracy, open_attempts: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The fields of the summary. mean_score is over files with a score; `unknown` counts those without one."""
    files = by_file(records, accuracy)
    known = [file for file in files if file.get("impact_score") is not None]
    ranked = sorted(known, key=lambda file: (-float(file["impact_score"]), str(file.get("filename"))))
    groups: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        groups.setdefault(_group(file), []).append(file)
    return {
        "status": "ok" if files else NO_DATA,
        "attempts": len(records),
        **_totals(files),
        "by_skill": {name: _totals(group) for name, group in sorted(groups.items())},
        "best_files": [_short(file) for file in ranked[:SHOWN] if file["classification"] == "positive"],
        "worst_files": [_short(file) for file in reversed(ranked[-SHOWN:]) if file["classification"] == "negative"],
        "recent": [_short(file) for file in files[:-RECENT - 1:-1]],
        "open": [
            {name: attempt.get(name) for name in ("job", "filename", "start_step", "start_timestamp", "abandoned")}
            for attempt in open_attempts
        ],
    }  # fmt: skip


def _totals(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    classes = [file.get("classification") for file in files]
    return {
        "files": len(files),
        "complete": sum(bool(file.get("complete", True)) for file in files),
        "incomplete": sum(not file.get("complete", True) for file in files),
        "positive": classes.count("positive"),
        "negative": classes.count("negative"),
        "neutral": classes.count("neutral"),
        "unknown": sum(file.get("impact_score") is None for file in files),
        "mean_score": mean([float(file["impact_score"]) for file in files if file.get("impact_score") is not None]),
        "steps_trained": sum(int(file.get("steps_trained") or 0) for file in files),
    }


def _group(file: Mapping[str, Any]) -> str:
    if not file.get("skill"):
        return "none"
    return str(file["skill"]) if file.get("level") is None else f"{file['skill']} level {file['level']}"


def _short(file: Mapping[str, Any]) -> dict[str, Any]:
    names = ("filename", "job", "skill", "level", "start_step", "end_step", "outcome", "complete", "impact_score", "classification")
    more = ("loss_delta", "accuracy_delta", "val_loss_delta", "score_terms", "attempts", "end_timestamp")
    return {name: file.get(name) for name in names + more}
