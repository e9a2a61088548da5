"""Confidence calibration: whether the model is right as often as it is sure. (specs/guild.md 2.7 row confidence_calibration)

    ECE = Σ_b (n_b / N) · |accuracy_b − confidence_b|

over bins of equal width on the answers' confidences. (Naeini, Cooper, Hauskrecht 2015, expected calibration error.) The confidence of an
answer is the geometric mean of its tokens' probabilities (`guild.evaluation.answerers`). A problem counts when its evaluation recorded
one; where none did, there is no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guild.analytics.documents import NO_DATA
from guild.analytics.sources import Problem

BINS = 10


def calibration(problems: Sequence[Problem], bins: int = BINS) -> dict[str, Any]:
    """`status, ece, num_bins, overconfident, bins, …`. A bin without answers has null accuracy, confidence and gap; gap is confidence
    minus accuracy, above zero where the model is too sure. overconfident: the mean gap is above zero; None without data."""
    answered = [(problem.confidence, problem.correct) for problem in problems if problem.confidence is not None]
    head = {"num_bins": bins, "answers": len(answered), "answers_without_confidence": len(problems) - len(answered)}
    if not answered:
        nothing: dict[str, Any] = {"ece": None, "overconfident": None, "accuracy": None, "mean_confidence": None, "bins": []}
        return {"status": NO_DATA, **head, **nothing}
    sorted_in: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, correct in answered:
        sorted_in[bin_of(confidence, bins)].append((confidence, correct))
    shown = [_bin(number, found, bins) for number, found in enumerate(sorted_in)]
    ece = sum(len(found) * abs(entry["gap"]) for found, entry in zip(sorted_in, shown, strict=True) if found) / len(answered)
    accuracy = sum(correct for _, correct in answered) / len(answered)
    confidence = sum(sure for sure, _ in answered) / len(answered)
    told = {"ece": ece, "overconfident": confidence > accuracy, "accuracy": accuracy, "mean_confidence": confidence, "bins": shown}
    return {"status": "ok", **head, **told}


def bin_of(confidence: float, bins: int = BINS) -> int:
    """The bin of a share: [0, 1/bins), …, the last one closed above."""
    return min(int(confidence * bins), bins - 1)


def _bin(number: int, found: Sequence[tuple[float, bool]], bins: int) -> dict[str, Any]:
    edges = {"range": [number / bins, (number + 1) / bins], "count": len(found)}
    if not found:
        return {**edges, "accuracy": None, "confidence": None, "gap": None}
    accuracy = sum(correct for _, correct in found) / len(found)
    confidence = sum(sure for sure, _ in found) / len(found)
    return {**edges, "accuracy": accuracy, "confidence": confidence, "gap": confidence - accuracy}
